"""A batch's process against a real Redis and engines of a tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from jobs import stream, stream_redis
from jobs.asking import STOPPED, read_kept
from jobs.batch_ask import ask
from ml.errors import ColdframeError, NotFoundError
from tests.jobs.test_engine_main import Engines, models, wait_for  # noqa: F401
from tests.jobs.test_evaluate import Heard, configured, engines  # noqa: F401

ROOT = Path(__file__).parents[2]


def item(place: int, *, n: int = 1, kind: str = "chat", **changes: Any) -> dict[str, Any]:
    values = {"team_id": 1, "base": "tiny-llama", "max_tokens": 8, "seed": place}
    asked = (
        {"text": f"Row {place} is"} if kind == "text" else {"messages": [{"role": "user", "content": f"Row {place}?"}]}
    )
    requests = [asdict(stream.GenerateRequest(**(values | asked | changes))) for _ in range(n)]
    for request in requests:
        del request["id"]
    reply = {"model": "base", "kind": kind, "n": n, "n_logprobs": None, "echo": []}
    return {"place": place, "custom_id": f"c{place}", "requests": requests, "reply": reply}


def folder_of(folder: Path, *items: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "requests.jsonl").write_text("".join(json.dumps(one) + "\n" for one in items))
    return folder


def lines_of(folder: Path, name: str = "output") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / f"{name}.jsonl").read_text().splitlines()]


def started(folder: Path, url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs.batch_ask", "--workdir", str(folder)]
    env = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"} | {"REDIS_URL": url}
    return subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def text_of(line: dict[str, Any]) -> str:
    choice = line["response"]["body"]["choices"][0]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


def test_answers_come_in_openais_lines_and_in_the_requests_order(tmp_path: Path):
    heard = Heard()
    refused = {"place": 2, "custom_id": "c2", "error": NotFoundError("No model x.", code="model_not_found").as_dict()}
    folder = folder_of(tmp_path / "w", item(0), item(1, n=3), refused, item(3, kind="text"))
    assert ask(folder, heard) == 0
    rows = lines_of(folder)
    assert [row["custom_id"] for row in rows] == ["c0", "c1", "c3"]
    assert [row["response"]["body"]["object"] for row in rows] == [
        "chat.completion", "chat.completion", "text_completion",
    ]  # fmt: skip
    assert len(rows[1]["response"]["body"]["choices"]) == 3
    assert rows[0]["response"]["status_code"] == 200 and rows[0]["error"] is None
    bad = lines_of(folder, "errors")
    assert [(row["custom_id"], row["response"]["status_code"]) for row in bad] == [("c2", 404)]
    assert bad[0]["response"]["body"]["error"]["code"] == "model_not_found"
    assert heard.of("progress")[-1] | {"eta_s": None} == {
        "event": "progress", "done": 4, "total": 4, "text": "", "eta_s": None, "n_failed": 1,
    }  # fmt: skip
    assert heard.of("finished")[0]["metrics"] == {"n_done": 3, "n_failed": 1}


def test_a_request_that_fails_ends_nothing_but_itself(tmp_path: Path):
    folder = folder_of(
        tmp_path / "w", item(0), item(1, artifact="0" * 64), item(2, text="very " * 600, messages=[], kind="text"),
        item(3, schema='{"not": {}}'), item(4),
    )  # fmt: skip
    assert ask(folder, Heard()) == 0
    assert [row["custom_id"] for row in lines_of(folder)] == ["c0", "c4"]
    codes = [row["response"]["body"]["error"]["code"] for row in lines_of(folder, "errors")]
    assert codes == ["invalid_artifact", "context_length_exceeded", "invalid_request"]


def test_being_killed_and_told_to_stop_costs_no_answer(engines: Engines, tmp_path: Path):  # noqa: F811
    """Killed, begun anew, told to stop, begun anew: the same answers as in one go, each once."""
    rows = [item(place, max_tokens=60) for place in range(80)]
    folder = folder_of(tmp_path / "w", *rows)
    n_before = 0
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = started(folder, engines.url)
        wait_for(lambda n=n_before: len(read_kept(folder / "answers.jsonl")) >= n + 5, engines)
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == (STOPPED if number == signal.SIGTERM else -number), out
        n_before = len(read_kept(folder / "answers.jsonl"))
    assert n_before < 80
    heard = Heard()
    assert ask(folder, heard) == 0
    assert heard.of("progress")[0]["done"] == n_before
    whole = folder_of(tmp_path / "whole", *rows)
    assert ask(whole, Heard()) == 0
    assert [text_of(row) for row in lines_of(folder)] == [text_of(row) for row in lines_of(whole)]
    assert [row["custom_id"] for row in lines_of(folder)] == [f"c{place}" for place in range(80)]
    wait_for(lambda: not stream_redis.client().xlen(stream.requests_key("tiny-llama")), engines)


def test_an_engine_that_dies_costs_no_answer(engines: Engines, tmp_path: Path):  # noqa: F811
    folder = folder_of(tmp_path / "w", *(item(place, max_tokens=80) for place in range(40)))
    process = started(folder, engines.url)
    wait_for(lambda: len(read_kept(folder / "answers.jsonl")) >= 3, engines)
    engines.processes[-1].kill()
    engines.processes[-1].wait()
    engines.start()
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert len(lines_of(folder)) == 40 and not lines_of(folder, "errors")


def test_vectors_are_answered_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def embed(kind: str, payload: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        return {"vectors": [[1.0, 0.5] for _ in payload["texts"]], "n_tokens": 7, "cut": [], "most": 256}

    monkeypatch.setattr("jobs.batch_ask.stream.acall_service", embed)
    texts = {"texts": ["a", "b"], "encoding": "base64"}
    folder = folder_of(
        tmp_path / "w",
        {"place": 0, "custom_id": "c0", **texts},
        {"place": 1, "custom_id": "c1", "dimensions": 9, **texts},
    )
    assert ask(folder, Heard()) == 0
    body = lines_of(folder)[0]["response"]["body"]
    assert body["usage"] == {"prompt_tokens": 7, "total_tokens": 7} and body["data"][1]["embedding"] == "AACAPwAAAD8="
    assert lines_of(folder, "errors")[0]["response"]["body"]["error"]["param"] == "dimensions"


def test_what_cannot_be_asked_of_an_engine_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The engine is away twice, then answers; a late answer is asked for again, but not for ever."""
    from ml.errors import UnavailableError

    n_asked: list[int] = []

    async def embed(kind: str, payload: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        n_asked.append(1)
        if len(n_asked) < 3:
            raise UnavailableError("No engine answered embed.")
        raise UnavailableError("The answer was late.", code="deadline")

    async def at_once(*_: Any) -> None:
        return None

    monkeypatch.setattr("jobs.batch_ask.stream.acall_service", embed)
    monkeypatch.setattr("jobs.asking.Asking._pause", at_once)
    folder = folder_of(tmp_path / "w", {"place": 0, "custom_id": "c0", "texts": ["a"]})
    assert ask(folder, Heard()) == 0
    assert len(n_asked) == 5
    told = lines_of(folder, "errors")[0]["response"]
    assert (told["status_code"], told["body"]["error"]["code"]) == (503, "deadline")


def test_the_process_knows_neither_database_nor_model():
    """What it imports is light: it may run where there is no torch."""
    code = "import sys, jobs.batch_ask; print(sorted({'torch', 'transformers', 'django.db'} & set(sys.modules)))"
    env = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert issubclass(NotFoundError, ColdframeError)
