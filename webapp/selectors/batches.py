"""Reads of the API's files and batches. Ids are `file-<hex>` and `batch_<hex>`; another team's is none at all."""

from __future__ import annotations

import re
import uuid
from typing import Any, TypeVar

from django.db.models import QuerySet

from ml.errors import NotFoundError
from webapp.models import ApiFile, Batch, Run, Team

STATUS = {
    Run.State.QUEUED: "validating", Run.State.LEASED: "validating", Run.State.RUNNING: "in_progress",
    Run.State.PUBLISHING: "finalizing", Run.State.SUCCEEDED: "completed", Run.State.FAILED: "failed",
    Run.State.CANCELLED: "cancelled",
}  # fmt: skip
"""OpenAI's words for the states of a run."""
LIVE = (*Run.ACTIVE, Run.State.QUEUED)
_LINE = re.compile(r"line (\d+)")
Kept = TypeVar("Kept", ApiFile, Batch)


def _found(rows: QuerySet[Kept], api_id: str, start: str, field: str) -> Kept:
    given = api_id.removeprefix(start)
    try:
        key = uuid.UUID(hex=given) if api_id.startswith(start) and len(given) == 32 else None
    except ValueError:
        key = None
    found = rows.filter(key=key).first() if key is not None else None
    if found is None:
        raise NotFoundError(f"Your team has no {start.strip('-_')} {api_id[:80]!r}.", field=field)
    return found


def file_of(team: Team, api_id: str, *, field: str = "file_id") -> ApiFile:
    """Raises NotFoundError."""
    return _found(ApiFile.objects.for_team(team), api_id, "file-", field)


def batch_of(team: Team, api_id: str) -> Batch:
    """Raises NotFoundError."""
    rows = Batch.objects.for_team(team).select_related("run", "output_file", "error_file")
    return _found(rows, api_id, "batch_", "batch_id")


def files_of(team: Team, *, purpose: str = "") -> QuerySet[ApiFile]:
    rows = ApiFile.objects.for_team(team)
    return rows.filter(purpose=purpose) if purpose else rows


def batches_of(team: Team) -> QuerySet[Batch]:
    return Batch.objects.for_team(team).select_related("run", "output_file", "error_file")


def status_of(batch: Batch) -> str:
    run = batch.run
    if run is None:
        return "completed" if batch.is_published else "failed"
    if run.is_cancel_requested and run.state in Run.ACTIVE:
        return "cancelling"
    return STATUS[Run.State(run.state)]


def counts_of(batch: Batch) -> dict[str, int]:
    """Requests in all, answered well, and answered with an error."""
    progress = batch.run.progress if batch.run else {}
    if batch.is_published:
        return {"total": max(int(progress.get("total") or 0), batch.n_done + batch.n_failed),
                "completed": batch.n_done, "failed": batch.n_failed}  # fmt: skip
    n_failed = int(progress.get("n_failed") or 0)
    return {"total": int(progress.get("total") or 0), "completed": int(progress.get("done") or 0) - n_failed,
            "failed": n_failed}  # fmt: skip


def errors_of(batch: Batch) -> dict[str, Any] | None:
    """Why the whole batch failed, with the line where it is one's fault."""
    error = batch.run.error if batch.run and batch.run.state == Run.State.FAILED else None
    if not error:
        return None
    field = str(error.get("field") or "")
    line = _LINE.fullmatch(field)
    message = f"{error.get('message', '')} {error.get('hint') or ''}".strip()
    data = {"code": error.get("code"), "message": message, "param": None if line else field or None,
            "line": int(line[1]) if line else None}  # fmt: skip
    return {"object": "list", "data": [data]}
