"""The worker's settings that runs rely on, and when a worker ends itself."""

from __future__ import annotations

import pytest

from jobs import celery
from jobs.celery import app, is_deaf
from jobs.queue import QUEUE_OF, TASK_OF, enqueue
from webapp.models import Run


def test_every_kind_of_run_has_a_queue_and_a_task() -> None:
    assert set(QUEUE_OF) == set(Run.Kind.values)
    assert all(TASK_OF[queue] in app.tasks for queue in QUEUE_OF.values())


def test_long_tasks_are_acknowledged_at_once_and_never_timed_out() -> None:
    """A message kept unacknowledged beyond the visibility timeout would be delivered again (celery #5935)."""
    long, short = app.tasks["jobs.run"], app.tasks["jobs.run_short"]
    assert not long.acks_late and long.time_limit is None and app.conf.task_time_limit is None
    assert short.acks_late and short.reject_on_worker_lost and short.time_limit < 3600
    assert app.conf.accept_content == ["json"] and app.conf.worker_max_tasks_per_child == 1


def test_a_message_for_one_queue_never_reaches_the_other() -> None:
    assert {(queue.name, queue.exchange.name, queue.routing_key) for queue in app.conf.task_queues} == {
        ("gpu", "gpu", "gpu"), ("cpu", "cpu", "cpu"), ("eval", "eval", "eval")
    }  # fmt: skip


def test_a_worker_is_deaf_when_messages_wait_and_it_does_nothing(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(celery.state, "reserved_requests", set())
    assert not is_deaf(["gpu"])
    enqueue("train", 1)
    assert is_deaf(["gpu"]) and not is_deaf(["cpu"])
    monkeypatch.setattr(celery.state, "reserved_requests", {"a run"})
    assert not is_deaf(["gpu"])
