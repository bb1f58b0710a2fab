"""A run waits for memory beside the engines of its device, says so, and begins once there is room."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from jobs import admission, stream, stream_redis
from jobs.admission import planned_bytes, shortage
from jobs.engine_heartbeat import Heartbeat
from jobs.supervise import supervise
from tests.jobs.redis_fixture import RedisChild, redis_child  # noqa: F401
from tests.jobs.test_supervise import Submit, submit  # noqa: F401
from webapp.models import Run
from webapp.selectors.runs import rows_of
from webapp.services.runs import run_cancel

pytestmark = pytest.mark.django_db
GB = 1_000_000_000
TOTAL = psutil.virtual_memory().total


def beat_of(needs: float, **fields: Any) -> dict[str, Any]:
    return {"host": socket.gethostname(), "base": "big", "device": "cpu", "needs_bytes": int(needs * GB)} | fields


def on_gpu(needs: float, number: str = "0") -> dict[str, Any]:
    return beat_of(needs, device="cuda", gpu=number, total_bytes=80 * GB)


@pytest.mark.parametrize(("planned", "device", "beats", "waits"), [
    (5, "cpu", [], False),
    (5, "cpu", [beat_of(2)], False),
    (7.5, "cpu", [beat_of(2)], True),
    (7.5, "cpu", [beat_of(2, host="elsewhere")], False),
    (7.5, "cpu", [on_gpu(2)], False),
    (7.5, "cpu", [beat_of(2, device="vllm", needs_bytes=0)], False),
    (2.4, "cpu", [beat_of(9)], False),  # a quarter is a run's in any case
    (9.5, "cpu", [beat_of(2)], False),  # would not fit alone either
    (0, "cpu", [beat_of(9)], False),
    (50, "0", [on_gpu(20)], False),
    (53, "0", [on_gpu(20)], True),
    (53, "1", [on_gpu(20)], False),
    (53, "0", [beat_of(20)], False),
    (10, "0", [on_gpu(70)], True),  # what an engine has of a GPU is taken
    (73, "0", [on_gpu(20)], False),
])  # fmt: skip
def test_a_run_waits_only_where_draining_an_engine_would_help(
    planned: float, device: str, beats: list[dict[str, Any]], waits: bool
) -> None:
    """On a machine of 10 GB with GPUs of 80 GB."""
    assert bool(shortage(int(planned * GB), device, beats, machine_bytes=10 * GB)) is waits


def test_the_reason_has_the_sizes_and_what_to_do() -> None:
    def said(*beats: dict[str, Any]) -> str:
        return shortage(int(8.9 * GB), "cpu", beats, machine_bytes=10 * GB)

    one = said(beat_of(3, base="smollm2"))
    assert one.startswith("Waits for memory: needs 8.9 GB, 6.0 GB are left beside the engine of smollm2.")
    assert "Drain the engine" in one and "rows at once" in one
    assert "beside 2 engines" in said(beat_of(2), beat_of(1))
    assert len(said(beat_of(3, base="a" * 300))) <= 200


class Beating:
    """An engine's heartbeat in a real Redis; it holds half of this machine until told otherwise."""

    def __init__(self) -> None:
        self.fields = {"needs_bytes": TOTAL // 2, "device": "cpu", "state": "ready", "rows": [], "tokens_per_s": 0.0,
                       "step_ms": 0.0, "queue": 0}  # fmt: skip
        self._heartbeat = Heartbeat("e", base="smollm2", describe=lambda: self.fields)
        self.stop = self._heartbeat.stop
        self._heartbeat.start()

    def holds(self, n_bytes: int) -> None:
        self.fields["needs_bytes"] = n_bytes
        self._heartbeat.beat()


@pytest.fixture
def engine(redis_child: RedisChild) -> Iterator[Beating]:  # noqa: F811
    beating = Beating()
    yield beating
    beating.stop()


@pytest.fixture
def large(submit: Submit, engine: Beating, monkeypatch: pytest.MonkeyPatch) -> Run:  # noqa: F811
    """A run whose plan, as its first attempt made it, fits the machine and not beside the engine."""
    monkeypatch.setattr(admission, "POLL_S", 0.05)
    run = submit()
    run.events.create(name="plan", data={"total": int(0.7 * TOTAL)})
    return run


@pytest.fixture
def on_wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], list[str]]:
    """Does something as soon as the run says why it waits; returns what it said."""
    say, said = admission._say, []

    def register(act: Callable[[], Any]) -> list[str]:
        def wrapped(run_id: int, reason: str) -> bool:
            held = say(run_id, reason)
            said.append(rows_of([Run.objects.get(pk=run_id)])[0].waiting)
            act()
            return held

        monkeypatch.setattr(admission, "_say", wrapped)
        return said

    return register


OnWait = Callable[[Callable[[], Any]], list[str]]


def test_a_run_waits_with_its_reason_in_the_lists_until_the_engine_has_left(
    large: Run, engine: Beating, on_wait: OnWait
) -> None:
    said = on_wait(lambda: engine.holds(0) if len(said) == 2 else None)
    assert supervise(large.pk) == "succeeded"
    assert len(said) == 2 and "beside the engine of smollm2" in said[0]
    large.refresh_from_db()
    assert large.waiting_for == "" and large.attempt == 1


def test_a_run_that_waits_can_be_cancelled(large: Run, on_wait: OnWait) -> None:
    outcomes = []
    on_wait(lambda: outcomes.append(run_cancel(run=large)))
    assert supervise(large.pk) == "someone else's"
    large.refresh_from_db()
    assert outcomes[0] == "cancelled" and large.state == Run.State.CANCELLED and large.waiting_for == ""


def test_a_worker_that_is_told_to_stop_leaves_a_waiting_run_in_line(large: Run, on_wait: OnWait) -> None:
    on_wait(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert supervise(large.pk) == "told to stop"
    large.refresh_from_db()
    assert large.state == Run.State.QUEUED and large.attempt == 0 and large.waiting_for == ""


def test_redis_that_goes_away_meanwhile_starts_nothing(
    large: Run, engine: Beating, redis_child: RedisChild, on_wait: OnWait  # noqa: F811
) -> None:  # fmt: skip
    def go_on() -> None:
        if len(said) == 1:
            redis_child.stop()
        elif len(said) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    said = on_wait(go_on)
    assert supervise(large.pk) == "told to stop" and "memory" in said[2] and len(said) == 4


@pytest.mark.parametrize("change", [{"device": "cuda", "gpu": "0"}, {"host": "elsewhere"}])
def test_an_engine_on_another_device_is_not_waited_for(
    change: dict[str, Any], large: Run, engine: Beating, on_wait: OnWait
) -> None:
    engine.fields.update(change)
    engine.holds(TOTAL // 2)
    said = on_wait(lambda: None)
    assert supervise(large.pk) == "succeeded" and said == []


class Planning(threading.Thread):
    """Answers one question about a plan, as an engine's service does."""

    def __init__(self, reply: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.reply, self.asked = reply, {}
        self.start()

    def run(self) -> None:
        ((_, ((_, fields),)),) = stream_redis.client().xread({stream.SERVICES: "0"}, block=5000)
        self.asked = {"kind": fields["kind"], **json.loads(fields["d"])}
        stream_redis.client().rpush(stream.reply_key(fields["id"]), json.dumps(self.reply))


@pytest.mark.parametrize(("reply", "planned"), [
    ({"total": 7, "device": "cpu"}, 7), ({"total": 7, "device": "cuda"}, 0),
    ({"error": {"code": "invalid_spec", "message": "No."}}, 0),
])  # fmt: skip
def test_before_its_first_attempt_an_engine_plans_the_run(
    reply: dict[str, Any], planned: int, submit: Submit, redis_child: RedisChild  # noqa: F811
) -> None:  # fmt: skip
    """A plan for another kind of device is none."""
    run, planning = submit(steps=3), Planning(reply)
    assert planned_bytes(run, "cpu") == planned
    planning.join()
    assert planning.asked == {"kind": "plan", "spec": {"options": {"steps": 3}}, "labels": 0}


def test_a_run_that_nobody_can_plan_begins(
    submit: Submit, engine: Beating, on_wait: OnWait, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setattr(admission, "PLAN_TIMEOUT_S", 0.1)
    said = on_wait(lambda: None)
    assert supervise(submit().pk) == "succeeded" and said == []
