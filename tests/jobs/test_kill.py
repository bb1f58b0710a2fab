"""Runs survive what kills processes: the real worker, reconciler and trainer on a tiny model, and a real redis."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.jobs.stack import Stack, until

STEPS = 40


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    built = Stack(tmp_path_factory.mktemp("stack"))
    built.start("worker")
    built.start("reconciler")
    yield built
    built.stop()


@pytest.fixture(scope="module")
def undisturbed(stack: Stack) -> str:
    """The weights of a run that nothing happened to."""
    (run_id,) = stack.do("submit", adapter="calm", steps=STEPS)
    stack.wait_state(run_id, "succeeded", "failed")
    return stack.artifact_of(run_id)


def finished(stack: Stack, run_id: int) -> str:
    row = stack.wait_state(run_id, "succeeded", "failed", "cancelled")
    assert row["state"] == "succeeded", (row["error"], stack.log_text())
    return stack.artifact_of(run_id)


def test_a_killed_trainer_goes_on_from_its_checkpoint_to_the_same_weights(stack: Stack, undisturbed: str) -> None:
    (run_id,) = stack.do("submit", adapter="killed", steps=STEPS)
    stack.wait_step(run_id, 13)
    stack.trainer_of(run_id).kill()
    assert finished(stack, run_id) == undisturbed
    assert stack.row(run_id)["attempt"] == 2


def test_a_killed_supervisor_takes_its_trainer_along_and_the_run_goes_to_the_next(
    stack: Stack, undisturbed: str
) -> None:
    (run_id,) = stack.do("submit", adapter="orphan", steps=STEPS)
    stack.wait_step(run_id, 13)
    trainer = stack.trainer_of(run_id)
    stack.supervisor_of(run_id).kill()
    until(lambda: not trainer.is_running() or trainer.status() == "zombie", "the trainer's end", for_s=20)
    assert finished(stack, run_id) == undisturbed
    events = stack.query("SELECT data FROM webapp_runevent WHERE run_id = ? AND name = 'requeued'", run_id)
    assert len(events) == 1 and "stopped answering" in events[0]["data"]


def test_a_running_run_can_be_cancelled_and_later_goes_on(stack: Stack, undisturbed: str) -> None:
    (run_id,) = stack.do("submit", adapter="paused", steps=STEPS)
    stack.wait_step(run_id, 5)
    assert stack.do("cancel", run_id=run_id) == "stopping"
    assert stack.wait_state(run_id, "cancelled", "succeeded")["state"] == "cancelled"
    stack.do("retry", run_id=run_id)
    assert finished(stack, run_id) == undisturbed


@pytest.mark.slow
def test_many_messages_make_one_lease_and_one_version(stack: Stack) -> None:
    stack.start("worker2")
    (run_id,) = stack.do("submit", adapter="rung", steps=20)
    stack.do("ring", run_id=run_id, n=4)
    finished(stack, run_id)
    until(lambda: not stack.queue_length("gpu"), "an empty queue")
    row = stack.row(run_id)
    assert row["attempt"] == 1 and row["fence"] == 1
    stack.signal("worker2", signal.SIGTERM)


@pytest.mark.slow
def test_a_worker_told_to_stop_hands_the_run_back_whole(stack: Stack, undisturbed: str) -> None:
    (run_id,) = stack.do("submit", adapter="restart", steps=STEPS)
    stack.wait_step(run_id, 13)
    stack.signal("worker", signal.SIGTERM)
    row = stack.row(run_id)
    assert row["state"] == "queued" and row["attempt"] == 0
    stack.start("worker")
    assert finished(stack, run_id) == undisturbed
    assert stack.row(run_id)["attempt"] == 1


def test_a_run_submitted_while_the_broker_is_away_starts_when_it_is_back(stack: Stack) -> None:
    stack.redis.stop()
    (run_id,) = stack.do("submit", adapter="patient", steps=5)
    row = stack.row(run_id)
    assert row["state"] == "queued" and "not reachable" in row["waiting_for"]
    stack.redis.start()
    finished(stack, run_id)


@pytest.mark.slow
def test_messages_lost_in_a_flushed_broker_are_sent_again(stack: Stack) -> None:
    (first, second) = stack.do("submit", adapter="flushed", steps=20, n=2)
    stack.wait_state(first, "running")
    stack.flush_broker()
    finished(stack, first)
    finished(stack, second)
