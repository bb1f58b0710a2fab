"""/v1/files: files of requests for batches, and the files of their answers, in OpenAI's shape."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import SuspiciousOperation
from django.db.models import QuerySet
from django.http import FileResponse, HttpRequest
from django.http.multipartparser import MultiPartParserError
from ninja import Router

from ml.errors import SpecError
from webapp import storage
from webapp.api.limits import MAX_LISTED
from webapp.errors import request_id_of
from webapp.models import ApiFile
from webapp.selectors.batches import file_of, files_of
from webapp.services.batches import file_create, file_delete

router = Router(tags=["batches"])
FORM = {
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
        "type": "object", "required": ["file", "purpose"], "properties": {
            "file": {"type": "string", "format": "binary"}, "purpose": {"type": "string", "enum": ["batch"]}},
    }}}},
}  # fmt: skip


def _as_json(file: ApiFile) -> dict[str, Any]:
    return {
        "id": file.api_id, "object": "file", "bytes": file.size_bytes, "created_at": int(file.created_at.timestamp()),
        "filename": file.filename, "purpose": file.purpose, "status": "processed", "expires_at": None,
    }  # fmt: skip


def page_of(rows: QuerySet[Any], *, limit: int, after: Any, shown: Any) -> dict[str, Any]:
    """A page of OpenAI's kind, the newest first; `after` is the row that the last page ended with."""
    if not 1 <= limit <= MAX_LISTED:
        raise SpecError(f"limit must be a whole number from 1 to {MAX_LISTED}, got {limit}.", field="limit")
    if after is not None:
        rows = rows.filter(pk__lt=after.pk)
    found = list(rows[: limit + 1])
    data = [shown(row) for row in found[:limit]]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, "has_more": len(found) > limit, **ends}


@router.get("/files", url_name="files", summary="The team's files of requests and answers")
def files(request: HttpRequest, purpose: str = "", limit: int = 100, after: str = "") -> dict[str, Any]:
    team = request.team  # type: ignore[attr-defined]
    last = file_of(team, after, field="after") if after else None
    return page_of(files_of(team, purpose=purpose[:20]), limit=limit, after=last, shown=_as_json)


@router.post("/files", url_name="files", summary="Upload a file of requests", openapi_extra=FORM)
def file_upload(request: HttpRequest) -> dict[str, Any]:
    """A form with `file` (JSONL, a request a line) and `purpose` (batch)."""
    try:
        file, fields = request.FILES.get("file"), dict(request.POST.items())
    except (MultiPartParserError, SuspiciousOperation) as error:
        raise SpecError(f"The form cannot be read: {error}", field="file") from error
    if file is None:
        raise SpecError("The form has no file.", hint="Send it as the field `file`, of a multipart form.", field="file")
    purpose = fields.pop("purpose", "")
    if fields:
        name = sorted(fields)[0]
        raise SpecError(f"Unknown field {name!r:.80}.", hint="Leave it out; files stay until deleted.", field=name)
    made = file_create(
        team=request.team, user=request.user, file=file, filename=file.name or "upload", size_bytes=file.size or 0,  # type: ignore[attr-defined]
        purpose=purpose,
    )  # fmt: skip
    return _as_json(made)


@router.get("/files/{file_id}", url_name="file", summary="One file")
def file_get(request: HttpRequest, file_id: str) -> dict[str, Any]:
    return _as_json(file_of(request.team, file_id))  # type: ignore[attr-defined]


@router.delete("/files/{file_id}", url_name="file", summary="Delete a file")
def file_remove(request: HttpRequest, file_id: str) -> dict[str, Any]:
    file = file_of(request.team, file_id)  # type: ignore[attr-defined]
    file_delete(file=file, user=request.user)
    return {"id": file.api_id, "object": "file", "deleted": True}


@router.get("/files/{file_id}/content", url_name="file_content", summary="What a file holds")
def file_content(request: HttpRequest, file_id: str) -> FileResponse:
    file = file_of(request.team, file_id)  # type: ignore[attr-defined]
    path = storage.path_of(file.storage_key)
    response = FileResponse(
        path.open("rb"), as_attachment=True, filename=file.filename, content_type="application/jsonl"
    )
    response.headers["X-Request-ID"] = request_id_of(request)
    return response
