"""What people do to runs: submit, cancel, retry; and the doorbell that tells a worker.

Guarantees: a run and its outbox row are written in one transaction, the message to the broker follows on commit, and a
broker that is away only delays the start: the reconciler sends again. A run ends cancelled or not, never both: once it
publishes, cancelling comes too late. What workers do to runs is in services/run_leases.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any, Literal

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from jobs.queue import enqueue
from ml.errors import ColdframeError, NotFoundError, SpecError, UnavailableError
from ml.specs import METHODS, check_fits, train_spec
from webapp.models import BaseModel, DatasetVersion, Outbox, Run, RunEvent, Team
from webapp.services.library_names import adapter_name_check
from webapp.services.teams import audit
from webapp.services.version_checks import labels_differ_check

logger = logging.getLogger(__name__)

UNREACHABLE = "The queue is not reachable just now. The run is saved and will start on its own."
OVER_HOOKS = {
    Run.Kind.VALIDATE: ("webapp.services.datasets", "version_run_over"),
    Run.Kind.INGEST: ("webapp.services.collections", "ingest_run_over"),
}
"""Told, inside the same transaction, when a run ends without success: `hook(run=)`."""


@transaction.atomic
def run_submit(
    *, team: Team, user: Any, kind: str, spec: dict[str, Any], title: str, dataset_version: DatasetVersion | None = None
) -> Run:
    """Writes the run and its doorbell. It is safe once this returns; the worker is told after commit."""
    if kind not in Run.Kind.values:
        raise SpecError(f"A run is one of {', '.join(Run.Kind.values)}, got {kind!r}.", field="kind")
    run = Run.objects.create(
        team=team, created_by=user, kind=kind, spec=spec, title=title[:160], dataset_version=dataset_version
    )
    doorbell_ring(run_id=run.pk)
    return run


def base_family(name: str, *, field: str = "base") -> str:
    """The family of a base model that can be trained and asked. Raises SpecError with this `field`.

    Before any model is set up every name passes as a decoder's: the run waits for its model and says so.
    """
    families = dict(BaseModel.objects.exclude(family="embedding").values_list("name", "family"))
    if name in families or not families:
        return families.get(name, "decoder")
    raise SpecError(
        f"There is no base model {name!r:.120} here.", field=field,
        hint="There is: " + ", ".join(sorted(families)) + ".",
    )  # fmt: skip


@transaction.atomic
def training_submit(*, team: Team, user: Any, adapter: str, dataset_version_id: int, given: Mapping[str, Any]) -> Run:
    """A training run of a data set version of this team. `given` is a spec without dataset and dataset_sha256.

    The one place where pages and API are checked: raises SpecError for what cannot be, also together.
    """
    version = DatasetVersion.objects.for_team(team).select_related("dataset").filter(pk=dataset_version_id).first()
    if version is None:
        raise NotFoundError(f"No data set version {dataset_version_id} in this team.", field="dataset")
    labels_differ_check(version, "learn")
    name = adapter_name_check(team, adapter, field="adapter")
    checked = train_spec({**given, "dataset": str(version), "dataset_sha256": version.sha256})
    check_fits(METHODS[checked.method], family=base_family(checked.base), task=version.task)
    spec = checked.as_dict()
    run = run_submit(
        team=team, user=user, kind=Run.Kind.TRAIN, title=name, dataset_version=version,
        spec={**spec, "kind": Run.Kind.TRAIN.value, "adapter": name},
    )  # fmt: skip
    audit(team=team, user=user, action="run.submit", subject=run, method=spec["method"])
    return run


@transaction.atomic
def run_cancel(*, run: Run, user: Any = None) -> Literal["cancelled", "stopping", "too_late"]:
    """Ends a waiting run at once and asks a running one to stop; one that publishes or is over stays as it is."""
    row = Run.objects.filter(pk=run.pk)
    outcome: Literal["cancelled", "stopping", "too_late"] = "too_late"
    if row.filter(state=Run.State.QUEUED).update(
        state=Run.State.CANCELLED, is_cancel_requested=True, fence=F("fence") + 1, finished_at=Now(), waiting_for=""
    ):
        run_is_over(run_id=run.pk)
        outcome = "cancelled"
    elif row.filter(state__in=(Run.State.LEASED, Run.State.RUNNING)).update(is_cancel_requested=True):
        outcome = "stopping"
    if outcome != "too_late":
        audit(team=run.team, user=user, action="run.cancel", subject=run)
    return outcome


@transaction.atomic
def run_retry(*, run: Run, user: Any = None) -> None:
    """Puts a failed or cancelled run back in line with three fresh attempts; training goes on from its checkpoint."""
    n_rows = Run.objects.filter(pk=run.pk, state__in=(Run.State.FAILED, Run.State.CANCELLED)).update(
        state=Run.State.QUEUED, fence=F("fence") + 1, attempt=0, is_cancel_requested=False, error=None,
        finished_at=None, waiting_for="",
    )  # fmt: skip
    if not n_rows:
        raise ColdframeError(
            f"{run} is {run.get_state_display().lower()}; only failed and cancelled runs can be tried again.",
            hint="Clone it to run it once more.", status=409, code="not_over",
        )  # fmt: skip
    RunEvent.objects.create(run_id=run.pk, name="requeued", data={"text": f"Tried again by {user}.", "attempt": 0})
    doorbell_ring(run_id=run.pk)
    audit(team=run.team, user=user, action="run.retry", subject=run)


def doorbell_ring(*, run_id: int) -> None:
    """An outbox row in the caller's transaction, and its message after commit."""
    outbox = Outbox.objects.create(run_id=run_id)
    transaction.on_commit(partial(doorbell_send, outbox_id=outbox.pk), robust=True)


def doorbell_send(*, outbox_id: int) -> bool:
    """Sends one message; False when the broker is away (the run says so until the reconciler gets through)."""
    outbox = Outbox.objects.select_related("run").get(pk=outbox_id)
    waiting = Run.objects.filter(pk=outbox.run_id, state=Run.State.QUEUED)
    try:
        enqueue(outbox.run.kind, outbox.run_id)
    except UnavailableError as error:
        logger.warning("run %s stays in the outbox: %s", outbox.run_id, error.message)
        waiting.update(waiting_for=UNREACHABLE)
        return False
    Outbox.objects.filter(pk=outbox_id).update(sent_at=Now())
    waiting.filter(waiting_for=UNREACHABLE).update(waiting_for="")
    return True


def doorbell_again(*, run_id: int) -> bool:
    """A new doorbell for a run whose message got lost, in place of its older ones."""
    with transaction.atomic():
        if not Run.objects.filter(pk=run_id, state=Run.State.QUEUED).exists():
            return False
        outbox = Outbox.objects.create(run_id=run_id)
        Outbox.objects.filter(run_id=run_id, pk__lt=outbox.pk).delete()
    return doorbell_send(outbox_id=outbox.pk)


def run_is_over(*, run_id: int) -> None:
    """Tells the noun a run works for that it ended without success."""
    run = Run.objects.get(pk=run_id)
    if run.kind in OVER_HOOKS:
        module, function = OVER_HOOKS[Run.Kind(run.kind)]
        getattr(import_module(module), function)(run=run)
