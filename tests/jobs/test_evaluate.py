"""An evaluation's process against a real Redis and engines of a tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from jobs import stream, stream_redis
from jobs.evaluate import STOPPED, evaluate, read_kept
from jobs.evaluate_row import Item, Outcome, read_answer
from ml.errors import ArtifactError, ContextTooLongError
from tests.jobs.redis_fixture import RedisChild
from tests.jobs.test_engine_main import Engines, models, wait_for  # noqa: F401

LABELS = ["red", "green", "bluish green"]
THINGS = ["a frog", "the sky", "a tomato", "grass", "the sea", "a leaf"]


@pytest.fixture(scope="module")
def engines(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:  # noqa: F811
    """A Redis with one engine for all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("evaluating")
    redis = RedisChild(folder)
    found = Engines(redis.url, models, folder)
    stream_redis.configure(redis.url)
    found.start()
    yield found
    found.stop()
    redis.stop()
    stream_redis.configure("")


@pytest.fixture(autouse=True)
def configured(engines: Engines) -> None:
    stream_redis.configure(engines.url)


def requests_file(folder: Path, *, labels: bool = True, n: int = 6, max_tokens: int = 8, **changes: Any) -> Path:
    """A work folder with `n` rows."""
    lines = []
    for place in range(n):
        question, expected = f"What colour is {THINGS[place % 6]}?", LABELS[place % 3]
        asked = {"choices": LABELS, "max_tokens": 1} if labels else {"references": [expected], "max_tokens": max_tokens}
        values = {"team_id": 1, "base": "tiny-llama", "messages": [{"role": "user", "content": question}], **asked}
        request = asdict(stream.GenerateRequest(**{**values, **changes}))
        del request["id"]
        lines.append({"place": place, "row": place + 1, "question": question, "expected": expected, "request": request})
    folder.mkdir(exist_ok=True)
    (folder / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = ["accuracy", "macro_f1", "ece"] if labels else ["token_f1", "exact_match", "perplexity"]
    spec = {"metrics": metrics, "labels": LABELS if labels else [], "is_scored": True, "max_tokens": max_tokens}
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder


class Heard:
    """Events as the supervisor hears them."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: str, **values: Any) -> None:
        self.events.append({"event": event, **values})

    def of(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]


def results_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / "results.jsonl").read_text().splitlines()]


def started(folder: Path, url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs.evaluate", "--workdir", str(folder)]
    env = {**os.environ, "REDIS_URL": url}
    return subprocess.Popen(command, env=env, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)


def test_labels_are_scored_and_every_row_comes_out_in_its_order(tmp_path: Path):
    heard = Heard()
    assert evaluate(requests_file(tmp_path / "w"), heard) == 0
    rows = results_of(tmp_path / "w")
    assert [row["place"] for row in rows] == list(range(6))
    for row in rows:
        assert row["got"] == LABELS[max(range(3), key=row["scores"].__getitem__)]
        assert row["is_right"] == (row["got"] == row["expected"]) == (row["score"] == 1)
        assert row["tokens_in"] > 0 and row["tokens_out"] == 0 and row["latency_ms"] > 0
    summary = json.loads((tmp_path / "w" / "out" / "summary.json").read_text())
    assert summary["metrics"]["accuracy"] == sum(row["is_right"] for row in rows) / 6
    assert set(summary["metrics"]) == {"accuracy", "macro_f1", "ece"} and summary["figures"]["n_errors"] == 0
    assert summary["versions"]["base_fingerprint"]
    assert heard.of("finished")[0]["metrics"] == summary["metrics"]
    assert heard.of("progress")[-1]["done"] == heard.of("progress")[-1]["total"] == 6
    assert not stream_redis.client().xlen(stream.requests_key("tiny-llama"))


def test_texts_are_written_and_the_expected_one_is_scored_beside_them(tmp_path: Path):
    assert evaluate(requests_file(tmp_path / "w", labels=False), Heard()) == 0
    rows = results_of(tmp_path / "w")
    assert all(row["nll"] > 0 and row["n_tokens"] >= 2 and row["tokens_out"] > 0 for row in rows)
    summary = json.loads((tmp_path / "w" / "out" / "summary.json").read_text())
    assert summary["metrics"]["perplexity"] > 1


def test_a_second_start_asks_only_for_what_is_left(tmp_path: Path):
    """The last line was cut short by a kill; the first two rows stand as they were kept."""
    folder = requests_file(tmp_path / "w")
    kept = [{"place": i, "row": i + 1, "question": "q", "expected": LABELS[i], "got": "kept", "scores": [-1, -2, -3]}
            for i in range(2)]  # fmt: skip
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept) + '{"place": 2, "ro')
    heard = Heard()
    assert evaluate(folder, heard) == 0
    rows = results_of(folder)
    assert [row["got"] for row in rows[:2]] == ["kept", "kept"] and len(rows) == 6
    assert heard.of("progress")[0]["done"] == 2
    assert all(row["got"] in LABELS for row in rows[2:])


def test_being_told_to_stop_keeps_what_was_answered_and_goes_on_later(engines: Engines, tmp_path: Path):
    folder = requests_file(tmp_path / "w", labels=False, n=80, max_tokens=60)
    process = started(folder, engines.url)
    wait_for(lambda: len(read_kept(folder / "answers.jsonl")) >= 3, engines)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == STOPPED, out
    n_kept = len(read_kept(folder / "answers.jsonl"))
    assert 3 <= n_kept < 80
    heard = Heard()
    assert evaluate(folder, heard) == 0
    assert heard.of("progress")[0]["done"] == n_kept and len(results_of(folder)) == 80
    whole = requests_file(tmp_path / "whole", labels=False, n=80, max_tokens=60)
    assert evaluate(whole, Heard()) == 0
    assert [row["got"] for row in results_of(folder)] == [row["got"] for row in results_of(whole)]


def test_an_engine_that_dies_costs_no_row(engines: Engines, tmp_path: Path):
    folder = requests_file(tmp_path / "w", labels=False, n=40, max_tokens=80)
    process = started(folder, engines.url)
    wait_for(lambda: len(read_kept(folder / "answers.jsonl")) >= 3, engines)
    engines.processes[-1].kill()
    engines.processes[-1].wait()
    engines.start()
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    rows = results_of(folder)
    assert len(rows) == 40 and not any("error" in row for row in rows)
    assert all(row["nll"] > 0 for row in rows)


def test_a_row_that_does_not_fit_counts_as_wrong_and_says_why(tmp_path: Path):
    folder = requests_file(tmp_path / "w", n=3)
    lines = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
    lines[1]["request"]["messages"][0]["content"] = "very " * 600
    (folder / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert evaluate(folder, Heard()) == 0
    rows = results_of(folder)
    assert rows[1]["error"]["code"] == "context_too_long" and not rows[1]["is_right"]
    assert json.loads((folder / "out" / "summary.json").read_text())["figures"]["n_errors"] == 1


def test_what_is_wrong_with_the_subject_ends_the_evaluation_at_once(engines: Engines, tmp_path: Path):
    with pytest.raises(ArtifactError, match="is not in the storage"):
        evaluate(requests_file(tmp_path / "w", artifact="0" * 64), Heard())
    wait_for(lambda: not stream_redis.client().xlen(stream.requests_key("tiny-llama")), engines)


def test_the_process_says_what_was_wrong_and_exits_with_the_code_for_it(engines: Engines, tmp_path: Path):
    process = started(requests_file(tmp_path / "w", artifact="0" * 64), engines.url)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 65
    assert json.loads(out.splitlines()[-1])["error"]["code"] == "invalid_artifact"


def test_without_an_engine_it_waits_and_says_so(tmp_path: Path):
    with_no_engine = RedisChild(tmp_path)
    folder = requests_file(tmp_path / "w", n=2)
    process = started(folder, with_no_engine.url)
    try:
        assert process.stdout is not None
        said = next(line for line in process.stdout if "No engine is running" in line)
        assert json.loads(said)["done"] == 0
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        with_no_engine.stop()
    assert process.returncode == STOPPED


ITEM = Item(place=0, row=1, question="q", expected="red", request={})
SPEC = {"labels": LABELS, "removes_markers": False}


@pytest.mark.parametrize(
    ("text", "done", "got"),
    [
        (" Red.", {}, "red"),
        ("I think of colours.\nAnswer: green", {"answer": "green"}, "green"),
        ("no idea", {}, ""),
        ("red", {"answer": None}, ""),
    ],
)
def test_a_label_is_read_out_of_what_was_written(text: str, done: dict[str, Any], got: str):
    line = read_answer(ITEM, Outcome(text=text, done=done), SPEC)
    assert line["got"] == got and line.get("text", text) == text.strip()


def test_citations_are_no_part_of_an_answer():
    spec = {"labels": [], "removes_markers": True}
    assert read_answer(ITEM, Outcome(text="Both own it [1]. So [2, 3]"), spec)["got"] == "Both own it. So"


def test_a_failed_row_keeps_its_reason():
    line = read_answer(ITEM, Outcome(error=ContextTooLongError("too long")), SPEC)
    assert line["got"] == "" and line["error"]["message"] == "too long"
