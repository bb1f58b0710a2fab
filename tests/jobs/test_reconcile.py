"""What the reconciler mends: unsent and lost doorbells, expired leases, leftovers; and what it leaves alone."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from django.utils import timezone

from jobs import reconcile, stream_redis
from jobs.queue import waiting_in
from webapp.models import Outbox, Run, Team
from webapp.services.run_leases import run_claim
from webapp.services.runs import UNREACHABLE, doorbell_send, run_cancel, run_submit

pytestmark = pytest.mark.django_db


@pytest.fixture
def run() -> Run:
    """A run whose message was never sent, half an hour ago."""
    team = Team.objects.create(slug="t", name="T")
    run = run_submit(team=team, user=None, kind="train", spec={}, title="ada")
    age(run)
    return run


def age(run: Run) -> None:
    Outbox.objects.filter(run=run).update(created_at=timezone.now() - timedelta(minutes=30))
    Outbox.objects.filter(run=run).exclude(sent_at=None).update(sent_at=timezone.now() - timedelta(minutes=20))


def test_a_doorbell_that_was_never_sent_is_sent(run: Run, redis_url: str) -> None:
    Run.objects.update(waiting_for=UNREACHABLE)
    assert reconcile.send_unsent() == 1 and waiting_in("gpu") == {run.pk}
    run.refresh_from_db()
    assert run.outbox.get().sent_at and run.waiting_for == ""
    assert reconcile.send_unsent() == 0


def test_a_message_still_in_line_is_not_sent_twice(run: Run, redis_url: str) -> None:
    reconcile.send_unsent()
    age(run)
    assert reconcile.send_lost() == 0


def test_a_message_that_vanished_is_sent_again_once_a_lease(run: Run, redis_url: str) -> None:
    reconcile.send_unsent()
    redis.Redis.from_url(redis_url).flushall()
    assert reconcile.send_lost() == 0, "it was sent only just now"
    age(run)
    assert reconcile.send_lost() == 1 and waiting_in("gpu") == {run.pk}
    assert reconcile.send_lost() == 0 and run.outbox.count() == 1


def test_runs_that_do_not_wait_are_left_alone(run: Run, redis_url: str) -> None:
    run_cancel(run=run)
    assert reconcile.send_unsent() == 0 and reconcile.send_lost() == 0


def test_a_pass_puts_expired_runs_back_and_rings_for_them(run: Run, redis_url: str) -> None:
    assert run_claim(run_id=run.pk, owner="gone")
    Run.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert reconcile.one_pass()
    run.refresh_from_db()
    assert run.state == Run.State.QUEUED
    assert redis.Redis.from_url(redis_url).ttl(reconcile.HEARTBEAT_KEY) > 0


def test_a_pass_without_a_broker_still_expires_leases(run: Run) -> None:
    stream_redis.configure("redis://127.0.0.1:1/0")
    try:
        assert run_claim(run_id=run.pk, owner="gone")
        Run.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
        reconcile.one_pass()
        assert not doorbell_send(outbox_id=run.outbox.last().pk)  # type: ignore[union-attr]
    finally:
        stream_redis.configure("")
    run.refresh_from_db()
    assert run.state == Run.State.QUEUED and run.waiting_for == UNREACHABLE


def test_working_folders_go_a_day_after_their_run_ended(run: Run, settings: Any, tmp_path: Path) -> None:
    settings.RUNS_DIR, settings.STORAGE_DIR = tmp_path / "runs", tmp_path / "storage"
    settings.STORAGE_DIR.mkdir()
    old, new, gone, alive = (settings.RUNS_DIR / str(number) for number in (901, 902, 903, run.pk))
    for folder in (old, new, gone, alive):
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - 90_000,) * 2)
    ended = {"state": Run.State.SUCCEEDED, "team": run.team, "kind": "train"}
    Run.objects.create(pk=901, finished_at=timezone.now() - timedelta(days=2), **ended)
    Run.objects.create(pk=902, finished_at=timezone.now() - timedelta(hours=2), **ended)
    reconcile.collect_garbage()
    assert not old.exists() and not gone.exists() and new.exists() and alive.exists()
