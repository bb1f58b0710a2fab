"""A file of a data set repository comes whole, or it is said why not; against a hub on the loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ml.__main__ import main
from ml.data.hub import choose, fetch
from ml.errors import ColdframeError, DataError, SpecError, UnavailableError
from tests.ml.running import Recorder

ROWS = b'{"text": "a", "label": "b"}\n' * 50
COMMIT = "c" * 40


class Hub:
    """Two files of rows, one of them called train; `declared` is what it says of their size."""

    def __init__(self) -> None:
        self.files = {"README.md": b"# about", "data/train.jsonl": ROWS, "data/test.jsonl": ROWS[:28]}
        self.declared: dict[str, int] = {}
        self.headers: list[dict[str, str]] = []


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    known = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            return

        def do_GET(self) -> None:
            known.headers.append(dict(self.headers))
            path = self.path.partition("?")[0]
            if path.startswith("/api/datasets/team/rows"):
                sizes = {name: known.declared.get(name, len(data)) for name, data in known.files.items()}
                siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
                self._say(json.dumps({"id": "team/rows", "sha": COMMIT, "siblings": siblings}).encode())
            elif (name := path.removeprefix(f"/datasets/team/rows/resolve/{COMMIT}/")) in known.files:
                self._say(known.files[name])
            else:
                self._say(b"{}", 404)

        def _say(self, body: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "0")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield known
    server.shutdown()
    server.server_close()


def test_the_training_file_comes_byte_for_byte_and_no_token_is_sent(hub: Hub, tmp_path: Path) -> None:
    found = fetch("team/rows", tmp_path / "x", max_bytes=10_000)
    assert (found.file, found.commit, found.n_bytes) == ("data/train.jsonl", COMMIT, len(ROWS))
    assert found.path.read_bytes() == ROWS
    assert not any("secret" in value for headers in hub.headers for value in headers.values())


def test_another_file_can_be_named(hub: Hub, tmp_path: Path) -> None:
    assert fetch("team/rows", tmp_path / "x", file="data/test.jsonl", max_bytes=10_000).n_bytes == 28


def test_a_file_above_the_limit_is_refused_by_its_declared_size(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="files may have 0 MB"):
        fetch("team/rows", tmp_path / "x", max_bytes=100)
    assert not (tmp_path / "x").exists()


def test_a_file_that_is_larger_than_declared_is_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.declared["data/train.jsonl"] = 10
    with pytest.raises(DataError, match="may have"):
        fetch("team/rows", tmp_path / "x", max_bytes=100)


def test_a_repository_that_is_not_there_or_not_public_is_said(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no public data set team/other"):
        fetch("team/other", tmp_path / "x", max_bytes=100)


def test_no_network_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="does not answer") as caught:
        fetch("team/rows", tmp_path / "x", max_bytes=100)
    assert "upload it here" in caught.value.hint


@pytest.mark.parametrize(
    ("names", "file", "words"),
    [
        (["a.csv", "b.csv"], "", "2 files of rows"),
        (["README.md"], "", "no CSV, TSV"),
        (["a.csv"], "z.csv", "no file 'z.csv'"),
        (["a.csv", "x.py"], "x.py", "no file of rows"),
    ],
)
def test_what_cannot_be_chosen_is_said_with_what_there_is(names: list[str], file: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        choose(dict.fromkeys(names, 1), file, "team/rows")


@pytest.mark.parametrize(
    ("repo", "file", "revision"),
    [("../x", "", ""), ("a/b/c", "", ""), ("http://evil", "", ""), ("a/b", "../../etc/passwd", ""), ("a/b", "", "..")],
)
def test_impossible_names_are_refused_before_anything_is_asked(
    repo: str, file: str, revision: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError):
        fetch(repo, tmp_path / "x", file=file, revision=revision, max_bytes=1)


def test_the_command_line_leaves_the_file_and_where_it_came_from(hub: Hub, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"kind": "fetch", "repo": "team/rows", "max_bytes": 10_000}))
    events = Recorder()
    assert main(["validate", str(spec), "--workdir", str(tmp_path / "w")], emit=events) == 0
    assert (tmp_path / "w" / "fetched").read_bytes() == ROWS
    assert json.loads((tmp_path / "w" / "fetched.json").read_text())["file"] == "data/train.jsonl"
    assert isinstance(events.named("finished")[0]["out"], str)


def test_errors_are_ours(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ColdframeError):
        fetch("team/rows", tmp_path / "x", file="data/none.csv", max_bytes=100)
