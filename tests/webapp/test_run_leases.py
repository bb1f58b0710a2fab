"""The state machine of runs: any order of claims, beats, ends, cancels and expiries keeps its promises."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from webapp.models import Outbox, Run, Team
from webapp.services import run_leases as leases
from webapp.services import runs as services
from webapp.services.run_leases import Claim, LostLeaseError
from webapp.services.runs import run_cancel, run_retry, run_submit

pytestmark = pytest.mark.django_db
ERROR = {"code": "x", "message": "It broke.", "hint": ""}


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "enqueue", lambda kind, run_id: None)


@pytest.fixture
def run(team: Team) -> Run:
    return run_submit(team=team, user=None, kind="train", spec={}, title="ada")


def claim_of(run: Run) -> Claim:
    claim = leases.run_claim(run_id=run.pk, owner="me")
    assert claim is not None
    return claim


def state_of(run: Run) -> str:
    run.refresh_from_db()
    return run.state


def let_expire(run: Run) -> None:
    Run.objects.filter(pk=run.pk, state__in=Run.ACTIVE).update(lease_until=timezone.now() - timedelta(days=1))


def test_only_one_of_two_claims_gets_the_run(run: Run) -> None:
    assert leases.run_claim(run_id=run.pk, owner="a") and leases.run_claim(run_id=run.pk, owner="b") is None


def test_the_lease_ends_by_the_databases_clock(run: Run, settings: Any) -> None:
    claim_of(run)
    run.refresh_from_db()
    left = (run.lease_until - timezone.now()).total_seconds()
    assert settings.RUN_LEASE_S - 30 < left <= settings.RUN_LEASE_S + 1
    assert leases.leases_expire() == 0


def test_an_expired_run_goes_back_in_line_and_its_old_holder_writes_nothing(run: Run) -> None:
    old = claim_of(run)
    let_expire(run)
    assert leases.leases_expire() == 1 and state_of(run) == Run.State.QUEUED
    new = claim_of(run)
    assert new.attempt == 2 and new.fence > old.fence
    assert leases.run_beat(claim=old) == "lost" and leases.run_record(claim=old, progress={"done": 1}) == "lost"
    assert not leases.run_started(claim=old) and not leases.run_publishing(claim=old)
    assert not leases.run_fail(claim=old, error=ERROR)
    assert not leases.run_requeue(claim=old, consumes_attempt=True, error=ERROR)
    with pytest.raises(LostLeaseError):
        leases.run_finish(claim=old, result={})
    assert leases.run_beat(claim=new) == "held"


def test_the_third_lost_worker_ends_the_run_with_the_reason(run: Run) -> None:
    for _ in range(3):
        claim_of(run)
        let_expire(run)
        leases.leases_expire()
    assert state_of(run) == Run.State.FAILED and "stopped answering" in run.error["message"]


def test_a_restart_uses_up_no_attempt(run: Run) -> None:
    for _ in range(5):
        assert leases.run_requeue(claim=claim_of(run), consumes_attempt=False, error=ERROR)
    assert state_of(run) == Run.State.QUEUED and run.attempt == 0


def test_a_run_that_was_to_be_cancelled_does_not_go_back_in_line(run: Run) -> None:
    claim = claim_of(run)
    assert run_cancel(run=run) == "stopping"
    assert leases.run_requeue(claim=claim, consumes_attempt=False, error=ERROR)
    assert state_of(run) == Run.State.CANCELLED


def test_a_cancel_that_nobody_hears_is_carried_out_when_the_lease_ends(run: Run) -> None:
    claim_of(run)
    run_cancel(run=run)
    let_expire(run)
    assert leases.leases_expire() == 1 and state_of(run) == Run.State.CANCELLED


def test_cancelling_comes_too_late_once_the_run_publishes(run: Run) -> None:
    claim = claim_of(run)
    assert leases.run_publishing(claim=claim) and run_cancel(run=run) == "too_late"
    leases.run_finish(claim=claim, result={})
    assert state_of(run) == Run.State.SUCCEEDED


def test_a_cancelled_run_is_not_published(run: Run) -> None:
    claim = claim_of(run)
    run_cancel(run=run)
    assert not leases.run_publishing(claim=claim) and leases.run_cancelled(claim=claim)


def test_every_return_to_the_line_rings_again(run: Run) -> None:
    leases.run_requeue(claim=claim_of(run), consumes_attempt=True, error=ERROR)
    assert Outbox.objects.filter(run=run).count() == 2


ACTIONS = ("claim", "beat", "start", "record", "publish", "finish", "fail", "requeue", "stop", "expire", "cancel",
           "cancelled", "retry")  # fmt: skip


class Machine:
    """One run and up to three holders, some of them long dead; each action checks what must always be true."""

    def __init__(self) -> None:
        team, _ = Team.objects.get_or_create(slug="m", name="M")
        self.run = run_submit(team=team, user=None, kind="train", spec={}, title="m")
        self.holders: list[Claim] = []
        self.ends: list[str] = []
        self.n_published = 0
        self.before = Run.objects.get(pk=self.run.pk)

    def act(self, action: str, who: int) -> None:
        holder = self.holders[-1 - who % len(self.holders)] if self.holders else None
        if action == "claim":
            claim = leases.run_claim(run_id=self.run.pk, owner=str(who))
            self.holders += [claim] if claim else []
        elif action == "expire":
            let_expire(self.run)
            leases.leases_expire()
        elif action == "cancel":
            run_cancel(run=self.run)
        elif action == "retry" and self.before.is_over and self.before.state != Run.State.SUCCEEDED:
            run_retry(run=self.run)
        elif holder is not None:
            self.act_as(holder, action)
        self.check(holder if action not in ("claim", "expire", "cancel", "retry") else None)

    def act_as(self, holder: Claim, action: str) -> None:
        if action == "finish":
            try:
                leases.run_finish(claim=holder, result={})
                self.n_published += 1
            except LostLeaseError:
                pass
            return
        {
            "beat": lambda: leases.run_beat(claim=holder),
            "start": lambda: leases.run_started(claim=holder),
            "record": lambda: leases.run_record(claim=holder, progress={"done": holder.fence}),
            "publish": lambda: leases.run_publishing(claim=holder),
            "fail": lambda: leases.run_fail(claim=holder, error=ERROR),
            "requeue": lambda: leases.run_requeue(claim=holder, consumes_attempt=True, error=ERROR),
            "stop": lambda: leases.run_requeue(claim=holder, consumes_attempt=False, error=ERROR),
            "cancelled": lambda: leases.run_cancelled(claim=holder),
        }.get(action, lambda: None)()

    def check(self, holder: Claim | None) -> None:
        old, now = self.before, Run.objects.get(pk=self.run.pk)
        if holder is not None and holder.fence != old.fence:
            assert (now.state, now.fence, now.progress, now.lease_until) == (
                old.state, old.fence, old.progress, old.lease_until
            ), "a dead fence wrote"  # fmt: skip
        assert now.fence >= old.fence and now.attempt <= leases.MAX_ATTEMPTS
        assert (now.state in Run.ACTIVE) == (now.lease_until is not None)
        assert now.is_over == (now.finished_at is not None)
        assert not (now.state == Run.State.PUBLISHING and now.is_cancel_requested)
        if old.state == Run.State.SUCCEEDED:
            assert now.state == Run.State.SUCCEEDED
        assert self.n_published == (now.state == Run.State.SUCCEEDED)
        if now.state == Run.State.QUEUED:
            assert Outbox.objects.filter(run=now).exists()
        self.before = now


N_SEQUENCES = int(os.environ.get("RUN_SEQUENCES", "100"))
"""More by hand: RUN_SEQUENCES=10000 pytest tests/webapp/test_run_leases.py"""


@settings(
    max_examples=N_SEQUENCES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 2)), max_size=25))
def test_any_sequence_keeps_the_promises(steps: list[tuple[str, int]]) -> None:
    machine = Machine()
    for action, who in steps:
        machine.act(action, who)
