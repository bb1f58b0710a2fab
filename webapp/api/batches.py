"""/v1/batches: files of requests answered by a run, in OpenAI's shape."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Router
from pydantic import Field

from ml.errors import ColdframeError
from webapp.api.files import page_of
from webapp.api.schemas import Strict
from webapp.models import Batch
from webapp.selectors.batches import batch_of, batches_of, counts_of, errors_of, file_of, status_of
from webapp.services.batches import WINDOW, batch_submit
from webapp.services.runs import run_cancel

router = Router(tags=["batches"])


class BatchRequest(Strict):
    input_file_id: str = Field(..., description="A file of /v1/files with purpose batch.")
    endpoint: str = Field(..., description="/v1/chat/completions, /v1/completions or /v1/embeddings.")
    completion_window: str = Field(WINDOW, description="24h only; a batch that takes longer goes on all the same.")
    metadata: dict[str, str] | None = Field(None, description="16 texts of your own, kept with the batch.")


def _as_json(batch: Batch) -> dict[str, Any]:
    run = batch.run
    status = status_of(batch)
    begun = int(run.started_at.timestamp()) if run and run.started_at else None
    ended = int(run.finished_at.timestamp()) if run and run.finished_at else None
    ends = {f"{name}_at": ended if status == name else None for name in ("completed", "failed", "cancelled")}
    return {
        "id": batch.api_id, "object": "batch", "endpoint": batch.endpoint, "errors": errors_of(batch),
        "input_file_id": batch.input_name, "completion_window": WINDOW, "status": status,
        "output_file_id": batch.output_file.api_id if batch.output_file else None,
        "error_file_id": batch.error_file.api_id if batch.error_file else None,
        "created_at": int(batch.created_at.timestamp()), "in_progress_at": begun, "expires_at": None,
        "finalizing_at": None, "expired_at": None, "cancelling_at": None, **ends,
        "request_counts": counts_of(batch), "metadata": batch.metadata or None,
        "coldframe": {"run": run.pk if run else None, "waiting_for": run.waiting_for if run else ""},
    }  # fmt: skip


@router.get("/batches", url_name="batches", summary="The team's batches")
def batches(request: HttpRequest, limit: int = 20, after: str = "") -> dict[str, Any]:
    team = request.team  # type: ignore[attr-defined]
    return page_of(batches_of(team), limit=limit, after=batch_of(team, after) if after else None, shown=_as_json)


@router.post("/batches", url_name="batches", summary="Have a file of requests answered")
def batch_create(request: HttpRequest, body: BatchRequest) -> dict[str, Any]:
    """Many requests are under way at once and share the engines' batches. A stopped worker or engine costs nothing but
    time; names are resolved when the batch begins."""
    team = request.team  # type: ignore[attr-defined]
    batch = batch_submit(
        team=team, user=request.user, file=file_of(team, body.input_file_id, field="input_file_id"),
        endpoint=body.endpoint, window=body.completion_window, metadata=body.metadata,
    )  # fmt: skip
    return _as_json(batch_of(team, batch.api_id))


@router.get("/batches/{batch_id}", url_name="batch", summary="How far a batch is, and its files")
def batch_get(request: HttpRequest, batch_id: str) -> dict[str, Any]:
    return _as_json(batch_of(request.team, batch_id))  # type: ignore[attr-defined]


@router.post("/batches/{batch_id}/cancel", url_name="batch_cancel", summary="Stop a batch")
def batch_cancel(request: HttpRequest, batch_id: str) -> dict[str, Any]:
    """What is answered by then stays, in its files."""
    batch = batch_of(request.team, batch_id)  # type: ignore[attr-defined]
    if batch.run is None or run_cancel(run=batch.run, user=request.user) == "too_late":
        raise ColdframeError(
            f"{batch.api_id} is {status_of(batch)}.", hint="Only a batch that is not over can be stopped.", status=409,
            code="too_late",
        )  # fmt: skip
    return _as_json(batch_of(request.team, batch_id))  # type: ignore[attr-defined]
