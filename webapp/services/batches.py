"""Writes on the API's files and batches: a file kept, a batch asked for, its answers published.

Guarantees: the batch, its run and the doorbell are one transaction; a file that a batch still reads cannot be deleted;
publishing runs inside a fenced transaction and twice is no error. What a line asks for is checked by the worker
(jobs/batch.py), as soon as it begins: a file of 50,000 requests is nothing to read while a client waits.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from django.db import transaction

from ml.errors import ColdframeError, SpecError
from webapp import storage
from webapp.models import ApiFile, Batch, Run, Team
from webapp.selectors.batches import LIVE
from webapp.services.runs import run_submit
from webapp.services.teams import audit
from webapp.upload_checks import check_size, shown_name

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
WINDOW = "24h"
MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512


def file_create(*, team: Team, user: Any, file: IO[bytes], filename: str, size_bytes: int, purpose: str) -> ApiFile:
    """Keeps a file of requests. Raises SpecError, or TooLargeError (413)."""
    if purpose != ApiFile.Purpose.BATCH:
        raise SpecError(f"purpose may only be batch, got {purpose!r:.40}.", field="purpose")
    name = shown_name(filename)
    check_size(size_bytes, name)
    made = ApiFile(team=team, created_by=user, filename=name, purpose=purpose, size_bytes=size_bytes)
    storage.put_file(file, made.storage_key)
    with transaction.atomic():
        made.save()
        audit(team=team, user=user, action="file.create", subject=name, bytes=size_bytes)
    return made


@transaction.atomic
def file_delete(*, file: ApiFile, user: Any) -> None:
    if Batch.objects.filter(input_file=file, run__state__in=LIVE).exists():
        raise ColdframeError(
            f"{file.api_id} is read by a batch.", hint="Cancel the batch first.", status=409, code="file_in_use"
        )
    audit(team=file.team, user=user, action="file.delete", subject=file.filename)
    key = file.storage_key
    file.delete()
    transaction.on_commit(partial(storage.delete, key), robust=True)


def _metadata(given: Mapping[str, Any] | None) -> dict[str, str]:
    found = dict(given or {})
    is_good = len(found) <= MAX_METADATA and all(
        isinstance(value, str) and len(key) <= MAX_METADATA_KEY and len(value) <= MAX_METADATA_VALUE
        for key, value in found.items()
    )
    if not is_good or "\x00" in "".join([*found, *found.values()]):
        raise SpecError(f"metadata may have {MAX_METADATA} texts of {MAX_METADATA_VALUE} characters.", field="metadata")
    return found


@transaction.atomic
def batch_submit(
    *, team: Team, user: Any, file: ApiFile, endpoint: str, window: str, metadata: Mapping[str, Any] | None = None
) -> Batch:
    """Raises SpecError with `field` set."""
    if endpoint not in ENDPOINTS:
        raise SpecError(f"endpoint is one of {', '.join(ENDPOINTS)}, got {endpoint!r:.60}.", field="endpoint")
    if window != WINDOW:
        raise SpecError(f"completion_window may only be {WINDOW}, got {window!r:.40}.", field="completion_window")
    if file.purpose != ApiFile.Purpose.BATCH:
        raise SpecError(f"{file.api_id} holds answers, not requests.", field="input_file_id")
    kept = _metadata(metadata)
    run = run_submit(
        team=team, user=user, kind=Run.Kind.BATCH, title=file.filename,
        spec={"kind": "batch", "endpoint": endpoint, "file": file.api_id},
    )  # fmt: skip
    batch = Batch.objects.create(
        team=team, created_by=user, endpoint=endpoint, input_file=file, input_name=file.api_id, metadata=kept, run=run
    )
    audit(team=team, user=user, action="batch.submit", subject=file.filename, run=run.pk)
    return batch


def batch_publish(*, run: Run, out: Path, files: Mapping[str, Mapping[str, Any]], n_done: int, n_failed: int) -> Batch:
    """`files`: key and bytes of `output` and `errors`, of each that has lines; they lie in the storage already. What
    was kept of a batch that was stopped gives way to more."""
    batch = Batch.objects.select_for_update().select_related("output_file", "error_file").get(run=run)
    before = {file.key.hex: file for file in (batch.output_file, batch.error_file) if file}
    made = {
        name: before.get(about["key"]) or ApiFile.objects.create(
            team=batch.team, created_by=batch.created_by, key=uuid.UUID(about["key"]), size_bytes=about["bytes"],
            filename=f"{batch.api_id}_{name}.jsonl", purpose=ApiFile.Purpose.BATCH_OUTPUT,
        )
        for name, about in files.items()
    }  # fmt: skip
    batch.output_file, batch.error_file = made.get("output"), made.get("errors")
    batch.n_done, batch.n_failed, batch.is_published = n_done, n_failed, True
    batch.save(update_fields=["output_file", "error_file", "n_done", "n_failed", "is_published"])
    for key, file in before.items():
        if key not in {one.key.hex for one in made.values()}:
            file.delete()
            transaction.on_commit(partial(storage.delete, f"files/{key}"), robust=True)
    return batch
