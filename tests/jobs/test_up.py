"""`make up`: what it starts, what it refuses, what it says."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from jobs import starter, stream, up
from jobs.embedded import SetupError
from jobs.supervisor import Part
from jobs.up_log import UpLog
from jobs.up_parts import Plan, all_parts, http_status

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[dict[str, Part]]:
    made, _ = all_parts(Plan(var=tmp_path, port=8123))
    yield {part.name: part for part in made}
    for part in made:
        for descriptor in part.pass_fds:
            os.close(descriptor)


def test_every_process_of_the_design_is_started(parts: dict[str, Part]) -> None:
    assert set(parts) == {
        "redis", "chroma", "prepare", "web", "engine", "models", "gpu", "cpu", "eval", "reconciler",
    }  # fmt: skip


def test_services_given_by_url_are_not_started(tmp_path: Path) -> None:
    plan = Plan(var=tmp_path, redis_url="redis://elsewhere/0", chroma_url="http://elsewhere:1")
    parts, endpoints = all_parts(plan)
    assert {"redis", "chroma"}.isdisjoint(part.name for part in parts)
    assert (endpoints.redis_url, endpoints.chroma_url) == ("redis://elsewhere/0", "http://elsewhere:1")
    assert all("redis" not in part.after for part in parts)


def test_no_part_listens_beyond_this_machine(parts: dict[str, Part]) -> None:
    assert parts["web"].command[parts["web"].command.index("--host") + 1] == "127.0.0.1"
    assert parts["chroma"].command[parts["chroma"].command.index("--host") + 1] == "127.0.0.1"
    assert "bind 127.0.0.1" in parts["redis"].stdin


def test_what_uses_the_database_starts_after_its_migrations(parts: dict[str, Part]) -> None:
    for name in ("web", "gpu", "cpu", "eval", "reconciler"):
        assert "prepare" in parts[name].after


def test_the_models_are_fetched_after_the_web_server_can_show_it(parts: dict[str, Part]) -> None:
    assert parts["models"].after == ("web",)
    assert not parts["models"].essential


def test_runs_wait_for_the_starter_models(parts: dict[str, Part]) -> None:
    """Bug told: on a new machine the demo collection's run began before the models were there, and failed for good."""
    assert "models" in parts["gpu"].after


def test_runs_wait_for_no_models_that_are_there(tmp_path: Path) -> None:
    for name in starter.STARTER_NAMES:
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "coldframe.json").write_text("{}")
    plan = Plan(var=tmp_path, redis_url="redis://elsewhere/0", chroma_url="http://elsewhere:1")
    (gpu,) = [part for part in all_parts(plan)[0] if part.name == "gpu"]
    assert "models" not in gpu.after


def test_the_services_stop_last(parts: dict[str, Part]) -> None:
    assert {name for name, part in parts.items() if part.stage == max(p.stage for p in parts.values())} == {
        "redis",
        "chroma",
    }


def test_children_ask_no_model_hub(parts: dict[str, Part]) -> None:
    assert parts["engine"].env["HF_HUB_OFFLINE"] == parts["gpu"].env["TRANSFORMERS_OFFLINE"] == "1"


def test_no_secret_stands_in_a_command_line(parts: dict[str, Part], tmp_path: Path) -> None:
    password = (tmp_path / "redis" / "password").read_text()
    assert all(password not in word for part in parts.values() for word in part.command)


def test_a_taken_port_is_refused_with_advice(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=f"Port {port} on 127.0.0.1 is taken") as caught:
            up.run(Plan(var=tmp_path, port=port))
    assert caught.value.hint.endswith(f"PORT={port + 1} make up")
    assert not (tmp_path / "redis").exists()


def test_a_taken_port_ends_the_command_with_a_failure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "manage.py", "up"], cwd=ROOT, env={**os.environ, "PORT": str(port)},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert f"PORT={port + 1} make up" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_of_all_interfaces_is_asked_at_loopback() -> None:
    assert Plan(var=Path(), host="0.0.0.0", port=1).address == "http://127.0.0.1:1"
    assert Plan(var=Path(), host="::", port=1).address == "http://[::1]:1"


def test_what_is_waited_for_is_said_in_words() -> None:
    health = {"parts": {"web": {"state": "ready"}, "engine": {"state": "starting", "text": "loading"}}}
    assert up.waiting_for(health) == "engine: loading"


class Unready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503)
        self.end_headers()
        self.wfile.write(json.dumps({"ready": False}).encode())

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def unready() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Unready)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


async def test_a_503_counts_as_an_answer_with_a_body(unready: str) -> None:
    assert await http_status(f"{unready}/healthz") == 503
    assert up.health_of(unready) == {"ready": False}


async def test_no_answer_is_status_zero() -> None:
    assert await http_status("http://127.0.0.1:1/") == 0
    assert up.health_of("http://127.0.0.1:1") == {}


def test_beats_of_a_start_that_was_killed_are_forgotten(redis_url: str) -> None:
    """Bug told: a second start was called ready by the engine and the workers of the first, killed seconds before."""
    stream.client().set("cf:worker:gpu", "1")
    stream.client().zadd(stream.ENGINES, {"old": time.time()})
    up.forget_signs_of_life(redis_url)
    assert not stream.client().exists("cf:worker:gpu", stream.ENGINES)


def test_lines_carry_their_part_s_name_and_are_kept_in_a_file(tmp_path: Path) -> None:
    out = io.StringIO()
    log = UpLog(folder=tmp_path, names=("web", "engine"), quiet=frozenset({"redis"}), out=out)
    log.line("web", "\x1b[32mhello\x1b[0m")
    log.line("redis", "noise")
    log.close()
    assert out.getvalue() == "web    | hello\n"
    assert (tmp_path / "web.log").read_text() == "hello\n"
    assert (tmp_path / "redis.log").read_text() == "noise\n"


def test_a_log_file_that_grew_too_long_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.up_log.LIMIT_BYTES", 10)
    log = UpLog(folder=tmp_path, names=("web",), out=io.StringIO())
    for text in ("first line", "second line"):
        log.line("web", text)
    log.close()
    assert (tmp_path / "web.log").read_text() == "second line\n"
    assert (tmp_path / "web.log.1").read_text() == "first line\n"


def test_progress_of_the_starter_models_is_put_into_words() -> None:
    line = json.dumps({"event": "progress", "done": 3, "total": 8, "text": "converting"})
    assert starter.follow(line) == "converting (3 of 8)"


def test_a_failure_of_the_starter_models_says_what_to_do() -> None:
    line = json.dumps({"event": "failed", "error": {"message": "No network.", "hint": "Check it."}})
    assert starter.follow(line) == "No network. Check it."


@pytest.mark.slow
def test_the_whole_product_starts_and_leaves_no_process(tmp_path: Path) -> None:
    """Everything that `make up` runs, until the web server answers; then Ctrl-C, and nothing of it is left."""
    port = up.embedded.free_port()
    environ = {**os.environ, "PORT": str(port), "COLDFRAME_VAR": str(tmp_path / "var")}
    command = [sys.executable, "manage.py", "up"]
    with subprocess.Popen(command, cwd=ROOT, env=environ, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not up.health_of(f"http://127.0.0.1:{port}"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    assert len(family) > 5
    assert [member for member in family if member.is_running()] == []
