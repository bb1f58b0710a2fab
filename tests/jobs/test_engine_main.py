"""The engine's process against a real Redis: serving, stopping, dying, and Redis going away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import stream, stream_redis
from jobs.engine_writer import OWNERS
from tests.jobs.redis_fixture import RedisChild, redis_child  # noqa: F401
from tests.ml.conftest import save_tiny_llama

STORY = [{"role": "user", "content": "Tell me about the sky."}]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_llama(folder / "tiny-llama")
    return folder


class Engines:
    """Starts and ends engine processes."""

    def __init__(self, url: str, models: Path, folder: Path) -> None:
        self.url, self.models, self.folder = url, models, folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *options: str, ready: bool = True) -> subprocess.Popen[bytes]:
        n = len(self.processes)
        log = (self.folder / f"engine{n}.log").open("wb")
        command = [sys.executable, "-m", "tests.jobs.engine_child", self.url, str(self.models), str(self.folder)]
        process = subprocess.Popen([*command, *options], stderr=log, stdout=log, cwd=Path(__file__).parents[2])
        self.processes.append(process)
        if ready:
            wait_for(lambda: process.pid in [e["pid"] for e in stream.engines() if e["state"] == "ready"], self, 240)
        return process

    def logs(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.folder.glob("engine*.log")))

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], Any], engines: Engines, timeout_s: float = 60) -> Any:
    deadline = time.monotonic() + timeout_s
    while True:
        if found := condition():
            return found
        assert time.monotonic() < deadline, engines.logs()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def shared(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """One engine for all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("shared")
    redis = RedisChild(folder)
    found = Engines(redis.url, models, folder)
    stream_redis.configure(redis.url)
    found.start()
    yield found
    found.stop()
    redis.stop()
    stream_redis.configure("")


@pytest.fixture
def serving(shared: Engines) -> Iterator[Engines]:
    """The shared engine, and the check that every test leaves nothing behind."""
    stream_redis.configure(shared.url)
    stream_redis.client().delete("kept")
    yield shared
    wait_for(nothing_is_left_behind, shared)


@pytest.fixture
def engines(redis_child: RedisChild, models: Path, tmp_path: Path) -> Iterator[Engines]:  # noqa: F811
    found = Engines(redis_child.url, models, tmp_path)
    yield found
    found.stop()


def request_of(**changes: Any) -> stream.GenerateRequest:
    values = {"team_id": 1, "base": "tiny-llama", "messages": STORY, "max_tokens": 400}
    return stream.GenerateRequest(**(values | changes))


def answer_of(request: stream.GenerateRequest) -> list[dict[str, Any]]:
    return [event for _, event in stream.iter_events(request.id, block_s=1) if event["event"] != "waiting"]


def ids_of(events: list[dict[str, Any]]) -> list[int]:
    return [i for event in events if event["event"] == "token" for i in event["ids"]]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["text"] for event in events if event["event"] == "token")


def n_tokens(request: stream.GenerateRequest) -> int:
    return stream_redis.client().xlen(stream.answer_key(request.id)) - 2


def nothing_is_left_behind() -> bool:
    redis = stream_redis.client()
    return not redis.xlen(stream.requests_key("tiny-llama")) and not redis.hlen(OWNERS) and not redis.hlen(stream.LOAD)


def test_requests_sent_together_share_steps_and_leave_nothing_behind(serving: Engines):
    group = [request_of(label=f"task {i}", group="g", max_tokens=30) for i in range(4)]
    stream.submit(group)
    answers = [answer_of(request) for request in group]
    for events in answers:
        names = [event["event"] for event in events]
        assert names[:2] == ["queued", "start"] and names[-1] == "done"
        done = events[-1]
        assert done["usage"]["completion_tokens"] == len(ids_of(events)) == 30
        assert done["finish_reason"] == "length" and done["last_step"] - done["first_step"] == 29
    shared = set.intersection(*({e["step"] for e in events if e["event"] == "token"} for events in answers))
    assert shared and max(event.get("rows", 0) for events in answers for event in events) == 4
    assert len({text_of(events) for events in answers}) == 1


def test_a_killed_engine_s_answers_are_continued_without_a_token_lost_or_doubled(engines: Engines):
    """Killed mid-stream; greedy and sampled answers alike go on as if nothing had happened."""
    first = engines.start()
    kinds = [{}, {"temperature": 0.7, "seed": 5}, {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "seed": 6}]
    undisturbed = [request_of(**kind) for kind in kinds]
    stream.submit(undisturbed)
    expected = [answer_of(request) for request in undisturbed]
    assert min(len(ids_of(events)) for events in expected) > 100, "choose other seeds: the tiny model stops too early"
    requests = [request_of(**kind, message_id=n) for n, kind in enumerate(kinds)]
    stream.submit(requests)
    wait_for(lambda: all(n_tokens(request) > 20 for request in requests), engines)
    first.send_signal(signal.SIGKILL)
    first.wait()
    n_before = [n_tokens(request) for request in requests]
    engines.start()
    for request, n, wanted in zip(requests, n_before, expected, strict=True):
        events = answer_of(request)
        assert ids_of(events) == ids_of(wanted) and text_of(events) == text_of(wanted)
        assert 20 < n < len(ids_of(wanted))
        assert [e["event"] for e in events].count("start") == 2 and events[-1]["event"] == "done"
    wait_for(nothing_is_left_behind, engines)
    kept = [json.loads(line) for line in stream_redis.client().lrange("kept", 0, -1)]
    finished = {line[1]: line[2] for line in kept if line[0] == "finished"}
    assert finished == {n: text_of(wanted) for n, wanted in enumerate(expected)}


def test_an_engine_that_was_only_asleep_writes_no_more_after_another_took_over(engines: Engines, monkeypatch):
    first = engines.start()
    request = request_of()
    stream.submit([request])
    wait_for(lambda: n_tokens(request) > 20, engines)
    first.send_signal(signal.SIGSTOP)
    for name in stream_redis.client().scan_iter("cf:engine:*"):
        stream_redis.client().delete(name)  # as if it had faded out
    engines.start()
    events = answer_of(request)
    first.send_signal(signal.SIGCONT)
    wait_for(lambda: len(stream.engines()) == 2, engines)
    after = request_of(max_tokens=5)
    stream.submit([after])
    answer_of(after)
    assert events[-1]["event"] == "done" and len(ids_of(events)) == 400
    assert answer_of(request) == events


def test_an_answer_goes_on_when_redis_was_away_and_when_the_engine_is_stopped(
    engines: Engines,
    redis_child: RedisChild,  # noqa: F811
):
    first = engines.start()
    expected, request, last = request_of(), request_of(), request_of()
    stream.submit([expected])
    wanted = ids_of(answer_of(expected))
    stream.submit([request])
    wait_for(lambda: n_tokens(request) > 20, engines)
    redis_child.stop()
    redis_child.start()
    assert ids_of(answer_of(request)) == wanted
    wait_for(nothing_is_left_behind, engines)
    stream.submit([last])
    wait_for(lambda: n_tokens(last) > 20, engines)
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=120) == 0
    assert stream.engines() == []
    engines.start()
    assert ids_of(answer_of(last)) == wanted


def test_the_heartbeat_counts_what_was_done_since_the_start(serving: Engines):
    def heart() -> dict[str, Any]:
        return stream.engines()[0]

    before, n_before = heart(), int(stream_redis.client().hget(stream.ENDED, "done") or 0)
    request = request_of(max_tokens=8)
    stream.submit([request])
    assert answer_of(request)[-1]["event"] == "done"
    after = wait_for(lambda: (beat := heart())["ended"]["done"] > before["ended"]["done"] and beat, serving)
    assert after["totals"]["tokens"] - before["totals"]["tokens"] >= 8
    assert after["started_at"] < after["at"] and after["resident_by_form"] == {}
    assert int(stream_redis.client().hget(stream.ENDED, "done")) == n_before + 1


def test_a_cancelled_answer_ends_at_once_and_is_kept(serving: Engines):
    request = request_of(message_id=7)
    stream.submit([request])
    wait_for(lambda: n_tokens(request) > 5, serving)
    stream.cancel(request.id)
    events = answer_of(request)
    assert events[-1]["finish_reason"] == "cancelled" and len(ids_of(events)) < 400
    assert json.loads(stream_redis.client().lrange("kept", 0, -1)[-1])[:2] == ["finished", 7]
    assert stream.engines()[0]["rows"] == [] or wait_for(lambda: not stream.engines()[0]["rows"], serving)


def test_a_request_cancelled_before_any_engine_saw_it_ends_as_cancelled(serving: Engines):
    request = request_of()
    stream.cancel(request.id)
    stream.submit([request])
    assert answer_of(request)[-1]["finish_reason"] == "cancelled"


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"artifact": "a" * 64}, "invalid_artifact", "not in the storage"),
        ({"messages": [{"role": "user", "content": "sky " * 600}]}, "context_too_long", "512 fit"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "invalid_data", "role"),
    ],
)
def test_a_request_that_cannot_be_served_says_why(changes, code, words, serving: Engines):
    request, good = request_of(**changes), request_of(max_tokens=5)
    stream.submit([request, good])
    error = answer_of(request)[-1]
    assert error["event"] == "error" and error["error"]["code"] == code and words in error["error"]["message"]
    assert answer_of(good)[-1]["event"] == "done"


def test_a_chat_that_grew_too_long_loses_its_oldest_turns(serving: Engines):
    turns = [{"role": role, "content": "the sky is blue " * 8} for _ in range(6) for role in ("user", "assistant")]
    request = request_of(messages=[*turns, *STORY], message_id=3, max_tokens=20)
    stream.submit([request])
    events = answer_of(request)
    start = next(event for event in events if event["event"] == "start")
    assert start["dropped"] > 0 and start["dropped"] % 2 == 0
    assert events[-1]["event"] == "done"


def test_a_deadline_ends_an_answer_with_an_error(serving: Engines, monkeypatch):
    request, now = request_of(deadline_s=1), time.time()
    with monkeypatch.context() as patch:
        patch.setattr("jobs.stream.time.time", lambda: now - 10)
        stream.submit([request])
    assert answer_of(request)[-1]["error"]["code"] == "deadline"


def test_an_engine_waits_for_its_model_and_says_so(engines: Engines, tmp_path: Path):
    engines.models = tmp_path / "none"
    process = engines.start(ready=False)
    wait_for(lambda: [e for e in stream.engines() if e["state"] == "waiting for the model"], engines)
    save_tiny_llama(engines.models / "tiny-llama")
    wait_for(lambda: [e for e in stream.engines() if e["state"] == "ready"], engines)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=30) == 0


def test_an_engine_for_a_gpu_that_is_not_there_ends_and_says_what_to_do(engines: Engines, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    process = engines.start("--device", "cuda", ready=False)
    assert process.wait(timeout=60) == 69
    assert "There is no CUDA device here. Choose cpu or auto" in engines.logs()


def test_an_engine_in_four_bits_says_so_and_answers(engines: Engines):
    engines.start("--quantization", "nf4")
    (beat,) = stream.engines()
    assert (beat["quantization"], beat["device"]) == ("nf4", "cpu")
    request = request_of(max_tokens=8)
    stream.submit([request])
    assert len(ids_of(answer_of(request))) == 8


def test_an_engine_says_how_it_decodes(serving: Engines):
    (beat,) = stream.engines()
    assert beat["device"] == "cpu"
    assert beat["decoding"] == {"dtype": "float32", "attention": "sdpa", "graphs": None}


def test_an_answer_that_redis_forgot_is_said_to_be_lost(engines: Engines):
    engines.start()
    request = request_of(message_id=8)
    stream.submit([request])
    wait_for(lambda: n_tokens(request) > 5, engines)
    stream_redis.client().flushall()
    wait_for(lambda: stream_redis.client().lrange("kept", -1, -1) == ['["failed", 8, "unavailable"]'], engines)
    after = request_of(max_tokens=5)
    stream.submit([after])
    assert answer_of(after)[-1]["event"] == "done"


def test_tokens_are_counted_as_a_service(serving: Engines):
    reply = stream.call_service("count_tokens", {"base": "tiny-llama", "messages": STORY}, timeout_s=20)
    assert reply["tokens"] > 5 and reply["limit"] == 512


def test_texts_that_vote_end_as_one_answer(serving: Engines):
    request = request_of(n_samples=3, temperature=1.0, max_tokens=8, seed=3, rule={"kind": "last_line"})
    stream.submit([request])
    events = answer_of(request)
    done = events[-1]
    assert done["event"] == "done" and done["usage"]["completion_tokens"] > 8
    assert sum(vote["n"] for vote in done["votes"]) <= 3 and done["answer"] == done["votes"][0]["answer"]
    assert [event["done"] for event in events if event["event"] == "chain"] == [1, 2, 3]
    again = request_of(n_samples=3, temperature=1.0, max_tokens=8, seed=3, rule={"kind": "last_line"})
    stream.submit([again])
    assert answer_of(again)[-1]["votes"] == done["votes"]


def test_a_memory_plan_is_made_beside_the_other_services(serving: Engines):
    given = {"method": "lora", "base": "tiny-llama", "dataset": "d", "dataset_sha256": "s", "max_length": 64}
    reply = stream.call_service("plan", {"spec": given}, timeout_s=60)
    assert reply["total"] > reply["weights"] > 0
