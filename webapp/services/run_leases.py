"""What a supervisor and the reconciler may do to a run: claim it, keep it, move it on, end it, give it back.

Guarantees: every transition is one conditional UPDATE whose row count is looked at, and names the claim's fencing
number, so a holder whose lease went to someone else writes nothing more. Leases are measured by the database's clock
alone. A run reaches exactly one terminal state. Not here: what people do to runs (services/runs.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from django.conf import settings
from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Coalesce, Now

from ml.errors import ColdframeError
from webapp.models import Run, RunEvent, RunMetric
from webapp.services.runs import doorbell_ring, run_is_over

MAX_ATTEMPTS = 3
NEWEST_ONLY = {"board": "", "cell": "key"}
"""Events of which the newest alone counts, by name: of a cell, the newest with the same key."""
Held = Literal["held", "cancel", "lost"]


class LostLeaseError(ColdframeError):
    """The run belongs to someone else by now, or is over; whoever gets this must stop and write nothing."""

    code = "lost_lease"
    permanent = False


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to write to a run for as long as `fence` is the run's newest."""

    run_id: int
    fence: int
    attempt: int


def _lease_end() -> Any:
    return Now() + timedelta(seconds=settings.RUN_LEASE_S)


def _mine(claim: Claim, *states: str) -> QuerySet[Run]:
    return Run.objects.filter(pk=claim.run_id, fence=claim.fence, state__in=states or Run.ACTIVE)


def run_claim(*, run_id: int, owner: str) -> Claim | None:
    """The run, if it is waiting; None when someone else has it or it is over. Consumes an attempt."""
    seen = Run.objects.filter(pk=run_id, state=Run.State.QUEUED).values("fence", "attempt").first()
    if seen is None:
        return None
    claim = Claim(run_id=run_id, fence=seen["fence"] + 1, attempt=seen["attempt"] + 1)
    n_rows = Run.objects.filter(
        pk=run_id, state=Run.State.QUEUED, is_cancel_requested=False, fence=seen["fence"], attempt=seen["attempt"]
    ).update(
        state=Run.State.LEASED, fence=claim.fence, attempt=claim.attempt, owner=owner[:120],
        lease_until=_lease_end(), waiting_for="",
    )  # fmt: skip
    return claim if n_rows else None


def run_beat(*, claim: Claim) -> Held:
    """Renews the lease; says whether it is still held and whether someone asked to cancel."""
    if not _mine(claim).update(lease_until=_lease_end()):
        return "lost"
    return "cancel" if _mine(claim).filter(is_cancel_requested=True).exists() else "held"


def run_started(*, claim: Claim) -> bool:
    return bool(
        _mine(claim, Run.State.LEASED).update(state=Run.State.RUNNING, started_at=Coalesce(F("started_at"), Now()))
    )


def run_record(
    *,
    claim: Claim,
    progress: dict[str, Any] | None = None,
    events: Sequence[tuple[str, dict[str, Any]]] = (),
    metrics: Sequence[dict[str, Any]] = (),
) -> Held:
    """Writes what the child said, all of it or nothing. A step repeated after a resume replaces the older one, and so
    does a state of something that is said again and again (NEWEST_ONLY)."""
    with transaction.atomic():
        change: dict[str, Any] = {"owner": F("owner")} if progress is None else {"progress": progress}
        if not _mine(claim).update(**change):
            return "lost"
        lasting = _without_outdated(claim.run_id, events)
        RunEvent.objects.bulk_create([RunEvent(run_id=claim.run_id, name=n, data=d) for n, d in lasting])
        newest = {int(data["step"]): data for data in metrics}
        RunMetric.objects.bulk_create(
            [RunMetric(run_id=claim.run_id, step=step, data=data) for step, data in newest.items()],
            update_conflicts=True, unique_fields=["run", "step"], update_fields=["data"],
        )  # fmt: skip
    return "cancel" if _mine(claim).filter(is_cancel_requested=True).exists() else "held"


def _without_outdated(run_id: int, events: Sequence[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """The events without those that a later one replaces; the rows of those that these replace are deleted."""
    seen: set[tuple[str, str]] = set()
    lasting = []
    for name, data in reversed(events):
        place = (name, str(data.get(NEWEST_ONLY[name], ""))) if name in NEWEST_ONLY else None
        if place is None or place not in seen:
            lasting.append((name, data))
        if place is not None:
            seen.add(place)
    for name, key in seen:
        same = {f"data__{NEWEST_ONLY[name]}": key} if NEWEST_ONLY[name] else {}
        RunEvent.objects.filter(run_id=run_id, name=name, **same).delete()
    return lasting[::-1]


def run_publishing(*, claim: Claim) -> bool:
    """From here on the run can no longer be cancelled. False when it is cancelled, or someone else's.

    Saying it twice is no error: a database that went away in between makes the supervisor begin publishing again.
    """
    return bool(
        _mine(claim).filter(is_cancel_requested=False).update(state=Run.State.PUBLISHING, lease_until=_lease_end())
    )


def run_finish(*, claim: Claim, result: dict[str, Any]) -> None:
    """Ends well. To be called inside the transaction that publishes; raises LostLeaseError to undo it."""
    n_rows = _mine(claim, Run.State.PUBLISHING).update(
        state=Run.State.SUCCEEDED, result=result, finished_at=Now(), lease_until=None, error=None, owner=""
    )
    if not n_rows:
        raise LostLeaseError(f"Run {claim.run_id} went to another worker before it was published.")


def run_fail(*, claim: Claim, error: dict[str, Any]) -> bool:
    """Ends badly; a run that was to be cancelled ends cancelled instead. False when the lease is lost."""
    return _end(_mine(claim).filter(is_cancel_requested=False), claim, error) or run_cancelled(claim=claim)


@transaction.atomic
def run_cancelled(*, claim: Claim) -> bool:
    n_rows = (
        _mine(claim, Run.State.LEASED, Run.State.RUNNING)
        .filter(is_cancel_requested=True)
        .update(state=Run.State.CANCELLED, finished_at=Now(), lease_until=None, owner="")
    )
    if n_rows:
        run_is_over(run_id=claim.run_id)
    return bool(n_rows)


def run_requeue(*, claim: Claim, consumes_attempt: bool, error: dict[str, Any]) -> bool:
    """Back to the line: with the attempt used up (and the end after the third), or as if it had never begun."""
    return _back(_mine(claim), claim, consumes_attempt=consumes_attempt, error=error) or run_cancelled(claim=claim)


def leases_expire() -> int:
    """Takes runs away from holders that stopped beating; returns how many."""
    error = ColdframeError(
        "The worker that had this run stopped answering.",
        hint="It was probably restarted or ran out of memory. Retry goes on from the last checkpoint.",
        code="worker_lost",
    ).as_dict()  # fmt: skip
    n_expired = 0
    late = Run.objects.filter(state__in=Run.ACTIVE, lease_until__lt=Now())
    for pk, fence, attempt in late.values_list("pk", "fence", "attempt"):
        claim = Claim(run_id=pk, fence=fence, attempt=attempt)
        rows = _mine(claim).filter(lease_until__lt=Now())
        n_expired += _back(rows, claim, consumes_attempt=True, error=error) or run_cancelled(claim=claim)
    return n_expired


@transaction.atomic
def _end(rows: QuerySet[Run], claim: Claim, error: dict[str, Any]) -> bool:
    n_rows = rows.update(state=Run.State.FAILED, error=error, finished_at=Now(), lease_until=None, owner="")
    if n_rows:
        run_is_over(run_id=claim.run_id)
    return bool(n_rows)


@transaction.atomic
def _back(rows: QuerySet[Run], claim: Claim, *, consumes_attempt: bool, error: dict[str, Any]) -> bool:
    rows = rows.filter(is_cancel_requested=False)
    if consumes_attempt and claim.attempt >= MAX_ATTEMPTS:
        return _end(rows, claim, error)
    # The fence grows here too: a holder that comes back to life must not be taken for the next one.
    n_rows = rows.update(
        state=Run.State.QUEUED, fence=F("fence") + 1, attempt=claim.attempt - (not consumes_attempt),
        lease_until=None, owner="", waiting_for="",
    )  # fmt: skip
    if n_rows:
        text = error["message"] if consumes_attempt else "Stopped for a restart of the worker; goes on by itself."
        RunEvent.objects.create(run_id=claim.run_id, name="requeued", data={"text": text, "attempt": claim.attempt})
        doorbell_ring(run_id=claim.run_id)
    return bool(n_rows)
