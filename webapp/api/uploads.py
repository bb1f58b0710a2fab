"""/v1/datasets/uploads: bring a file, see what it holds, say how it is read, have a version made. The pages' services.

Guarantees: a body is never in memory as a whole, whether it comes as a form or bare; what is larger than MAX_UPLOAD_MB
is refused while it comes. A version is made by a run: its id comes back at once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.http.multipartparser import MultiPartParserError
from ninja import Query, Router

from ml.errors import ColdframeError, SpecError
from webapp.api import runs
from webapp.api.bodies import body_of, described
from webapp.api.dataset_schemas import HubRequest, MappingRequest, UploadOut, Uploads, VersionRequest, given_of
from webapp.models import Upload
from webapp.selectors import uploads as selectors
from webapp.selectors.datasets import open_uploads
from webapp.services import uploads as services
from webapp.services.datasets import version_submit
from webapp.services.hub_files import hub_fetch_submit
from webapp.services.mappings import mapping_check, readable_check, splits_suggested
from webapp.upload_checks import TooLargeError, check_size

router = Router(tags=["datasets"])
CHUNK_BYTES = 1 << 20
IN_MEMORY_BYTES = 1 << 20
MAX_LISTED = 100
SHOWN = ("format", "format_name", "encoding", "delimiter", "n_rows", "n_problems", "problems", "recognised",
         "recognised_name", "columns", "split_column")  # fmt: skip
BODY = {
    "requestBody": {"required": True, "content": {
        "multipart/form-data": {"schema": {"type": "object", "required": ["file"], "properties": {
            "file": {"type": "string", "format": "binary"}}}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }},
}  # fmt: skip


def _as_json(upload: Upload) -> dict[str, Any]:
    preview = {key: value for key, value in upload.preview.items() if key in ("rows", "problems", "error", "base")}
    return {
        "id": upload.pk, "filename": upload.filename, "bytes": upload.size_bytes, "sha256": upload.sha256,
        "state": upload.state, "error": upload.error, "mapping": upload.mapping,
        "report": {key: upload.report[key] for key in SHOWN if key in upload.report},
        "preview": preview if selectors.is_fresh(upload) else None, "run": upload.report.get("run"),
        "versions": [str(version) for version in selectors.versions_from(upload)],
        "created": int(upload.created_at.timestamp()),
    }  # fmt: skip


@router.get("/datasets/uploads", response=Uploads, url_name="dataset_uploads", summary="Files that are no version yet")
def uploads(request: HttpRequest) -> Any:
    found = open_uploads(request.team).defer(None)[:MAX_LISTED]  # type: ignore[attr-defined]
    return {"data": [_as_json(upload) for upload in found]}


@router.post("/datasets/uploads", response={201: UploadOut, 200: UploadOut}, url_name="dataset_uploads",
             summary="Bring a file", openapi_extra=BODY)  # fmt: skip
def upload_create(request: HttpRequest, filename: str = Query("", description="What a bare body is called.")) -> Any:
    """As `file` of a form, or as the bare body with `?filename=rows.jsonl`. The same bytes come back as what they
    already are (200). It is read by a worker: ask for it again until its state is no longer `reading`."""
    with _brought(request, filename) as (file, name):
        upload, is_new = services.upload_create(
            team=request.team, user=request.user, file=file, filename=name,  # type: ignore[attr-defined]
        )  # fmt: skip
    return 201 if is_new else 200, _as_json(upload)


@contextmanager
def _brought(request: HttpRequest, filename: str) -> Iterator[tuple[IO[bytes], str]]:
    """The body's file and its name. Raises ColdframeError (400, 413)."""
    if request.content_type == "multipart/form-data":
        try:
            file = request.FILES.get("file")
        except (MultiPartParserError, SuspiciousOperation) as error:
            raise SpecError(f"The form cannot be read: {error}", field="file") from error
        if file is None:
            raise SpecError("The form has no file.", hint="Send it as the field `file`.", field="file")
        yield file, filename or file.name or "upload"
        return
    if not filename:
        raise SpecError("The body has no name.", hint="Add ?filename=rows.jsonl; its ending says what it is.",
                        field="filename")  # fmt: skip
    with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as spool:
        n_bytes = 0
        while chunk := request.read(CHUNK_BYTES):
            n_bytes += len(chunk)
            if n_bytes > settings.MAX_UPLOAD_BYTES:
                check_size(n_bytes, filename)
                raise TooLargeError(f"{filename} is too large.")
            spool.write(chunk)
        spool.seek(0)
        yield spool, filename


@router.post("/datasets/uploads/hub", response={202: UploadOut}, url_name="dataset_upload_hub",
             summary="Fetch a file of a public repository")  # fmt: skip
def upload_fetch(request: HttpRequest, body: HubRequest) -> Any:
    upload = hub_fetch_submit(team=request.team, user=request.user, **body.dict())  # type: ignore[attr-defined]
    return 202, _as_json(upload)


@router.get("/datasets/uploads/{int:upload_id}", response=UploadOut, url_name="dataset_upload",
            summary="What a file holds")  # fmt: skip
def upload_get(request: HttpRequest, upload_id: int) -> Any:
    return _as_json(selectors.upload_of(request.team, upload_id))  # type: ignore[attr-defined]


@router.delete("/datasets/uploads/{int:upload_id}", response={204: None}, url_name="dataset_upload",
               summary="Forget a file of which no version was made")  # fmt: skip
def upload_delete(request: HttpRequest, upload_id: int) -> Any:
    upload = selectors.upload_of(request.team, upload_id)  # type: ignore[attr-defined]
    services.upload_discard(upload=upload, user=request.user)
    return 204, None


@router.post("/datasets/uploads/{int:upload_id}/mapping", response={202: UploadOut}, url_name="dataset_upload_mapping",
             summary="Say how its columns are read", openapi_extra=described(MappingRequest))  # fmt: skip
def upload_map(request: HttpRequest, upload_id: int) -> Any:
    """Kept with the file; the rows as the model sees them come into `preview` as soon as a worker has rendered them."""
    upload = selectors.upload_of(request.team, upload_id)  # type: ignore[attr-defined]
    body = body_of(request, MappingRequest)
    readable_check(upload)
    services.upload_map(upload=upload, mapping=mapping_check(upload, given_of(body)))
    upload.refresh_from_db()
    return 202, _as_json(upload)


@router.post("/datasets/uploads/{int:upload_id}/versions", response={202: dict}, url_name="dataset_version_create",
             summary="Make a version of it, by a run", openapi_extra=described(VersionRequest))  # fmt: skip
def version_create(request: HttpRequest, response: HttpResponse, upload_id: int) -> Any:
    """Answers with the run; once that has succeeded its `result.name` is the version, e.g. `support-intents@2`. Rows
    that cannot be used end it as failed, with their numbers in `error.problems`."""
    upload = selectors.upload_of(request.team, upload_id)  # type: ignore[attr-defined]
    body = body_of(request, VersionRequest)
    readable_check(upload)
    _problems_check(upload, leave_out=body.leave_out)
    mapping = mapping_check(upload, given_of(body.mapping) or upload.mapping)
    splits = _splits(given_of(body.splits)) or splits_suggested(upload, mapping["task"])
    with transaction.atomic():
        if upload.state == Upload.State.USED:
            services.upload_reopen(upload=upload)
            upload.refresh_from_db()
        run = version_submit(
            team=request.team, user=request.user, upload=upload, name=body.name, mapping=mapping, splits=splits,  # type: ignore[attr-defined]
            seed=body.seed, leave_out=body.leave_out, drop_duplicates=body.drop_duplicates, drop_leaks=body.drop_leaks,
        )  # fmt: skip
    response.headers["Location"] = f"/v1/runs/{run.pk}"
    run.refresh_from_db()
    return 202, runs.as_json(run)


def _splits(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """Ids of uploads as whole numbers: JSON has one kind of number."""
    if given is None or given.get("kind") != "files":
        return given
    return {key: int(value) if isinstance(value, float) and value.is_integer() else value
            for key, value in given.items()}  # fmt: skip


def _problems_check(upload: Upload, *, leave_out: bool) -> None:
    n = upload.report.get("n_problems", 0)
    if n and not leave_out:
        first = upload.report["problems"][0]["message"]
        raise ColdframeError(
            f"{n:,} rows of {upload.filename} cannot be read. {first}", field="leave_out", code="bad_rows",
            hint="Repair them, or send leave_out: true.",
        )  # fmt: skip
