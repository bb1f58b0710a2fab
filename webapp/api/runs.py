"""POST /v1/runs and GET /v1/runs/{id}: the same training runs as on the pages. A run belongs to the token's team."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Body, Router

from ml.errors import ColdframeError, NotFoundError, SpecError
from webapp.models import DatasetVersion, Run
from webapp.services.runs import run_cancel, training_submit

router = Router(tags=["runs"])


def as_json(run: Run) -> dict[str, Any]:
    version = getattr(run, "adapter_version", None)
    return {
        "id": run.pk, "object": "run", "kind": run.kind, "state": run.state, "title": run.title, "spec": run.spec,
        "progress": run.progress, "result": run.result, "error": run.error, "attempt": run.attempt,
        "adapter": str(version) if version else None, "created": int(run.created_at.timestamp()),
    }  # fmt: skip


def version_named(request: HttpRequest, name: Any) -> DatasetVersion:
    """`support-intents@2` of this team. Raises NotFoundError."""
    dataset, _, number = str(name).rpartition("@")
    versions = DatasetVersion.objects.for_team(request.team).select_related("dataset")  # type: ignore[attr-defined]
    found = versions.filter(dataset__name=dataset, number=int(number)).first() if number.isdecimal() else None
    if found is None:
        raise NotFoundError(
            f"No data set version {str(name)[:100]!r} in this team.", field="dataset", hint="For example my-data@2."
        )
    return found


@router.post("/runs", response={201: dict}, url_name="run_create", summary="Start a training run")
def run_create(request: HttpRequest, body: Body[dict[str, Any]]) -> Any:
    """Keys: adapter, dataset (`name@number`), method, base, settings, and the technique's own under `options`."""
    given = dict(body)
    version = version_named(request, given.pop("dataset", ""))
    adapter = given.pop("adapter", "")
    if not isinstance(adapter, str):
        raise SpecError(f"adapter must be text, got {adapter!r}.", field="adapter")
    run = training_submit(
        team=request.team, user=request.user, adapter=adapter, dataset_version_id=version.pk, given=given,  # type: ignore[attr-defined]
    )  # fmt: skip
    return 201, as_json(run)


def _run_of(request: HttpRequest, run_id: int) -> Run:
    run = Run.objects.for_team(request.team).filter(pk=run_id).first()  # type: ignore[attr-defined]
    if run is None:
        raise NotFoundError(f"No run {run_id} in this team.")
    return run


@router.get("/runs/{int:run_id}", response=dict, url_name="run", summary="One run with its progress")
def run_get(request: HttpRequest, run_id: int) -> dict[str, Any]:
    return as_json(_run_of(request, run_id))


@router.post("/runs/{int:run_id}/cancel", response=dict, url_name="run_cancel", summary="Stop a run")
def run_stop(request: HttpRequest, run_id: int) -> dict[str, Any]:
    """A waiting run ends at once; a running one writes its checkpoint first."""
    run = _run_of(request, run_id)
    if run_cancel(run=run, user=request.user) == "too_late":
        raise ColdframeError(
            f"{run} is {run.get_state_display().lower()}.", hint="Only a run that is not over can be stopped.",
            status=409, code="too_late",
        )  # fmt: skip
    return as_json(_run_of(request, run_id))
