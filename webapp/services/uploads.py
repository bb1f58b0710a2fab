"""Uploads of data files: kept under a UUID, looked at by a worker, mapped by a person.

Guarantees: nothing is stored twice for a team (the same bytes come back as the upload or version they already are); a
broker that is away leaves the upload as it is, with the reason on it and a way to ask again; what a worker found is
written only to the upload it looked at. Not here: making versions (services/datasets.py).
"""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import IO, Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from jobs.queue import enqueue_inspect
from ml.errors import ColdframeError, UnavailableError
from webapp import storage
from webapp.models import Run, Team, Upload
from webapp.services.teams import audit
from webapp.upload_checks import HEAD_BYTES, TooLargeError, check_head, check_size, shown_name, suffix_of

logger = logging.getLogger(__name__)
CHUNK_BYTES = 1 << 20
ASK_AGAIN_AFTER_S, MAX_ASKED = 300.0, 4


def upload_create(*, team: Team, user: Any, file: IO[bytes], filename: str) -> tuple[Upload, bool]:
    """Keeps a file and has it looked at. Returns the upload and whether it is new; raises ColdframeError (413, 415)."""
    name = shown_name(filename)
    suffix_of(name)
    head = file.read(HEAD_BYTES)
    sha256, size_bytes = _digest(file, head, name)
    check_size(size_bytes, name)
    check_head(head, name)
    known = Upload.objects.for_team(team).filter(sha256=sha256).first()
    if known is not None and storage.exists(known.storage_key):
        if known.state == Upload.State.READING:
            upload_inspect(upload=known)
        return known, False
    key = uuid.uuid4()
    file.seek(0)
    storage.put_file(file, f"uploads/{key}")
    with transaction.atomic():
        upload = Upload.objects.create(
            team=team, created_by=user, key=key, filename=name, size_bytes=size_bytes, sha256=sha256
        )
        audit(team=team, user=user, action="upload.create", subject=name, sha256=sha256, bytes=size_bytes)
        transaction.on_commit(partial(upload_inspect, upload=upload), robust=True)
    return upload, True


def _digest(file: IO[bytes], head: bytes, name: str) -> tuple[str, int]:
    """sha256 and size, a chunk at a time; stops early at the size limit."""
    whole, size = hashlib.sha256(head), len(head)
    while chunk := file.read(CHUNK_BYTES):
        whole.update(chunk)
        size += len(chunk)
        if size > settings.MAX_UPLOAD_BYTES:
            check_size(size, name)
            raise TooLargeError(f"{name} is too large.")
    return whole.hexdigest(), size


def upload_inspect(*, upload: Upload) -> bool:
    """Asks a worker to look at the upload; False, with the reason on the upload, when the broker is away."""
    row = Upload.objects.filter(pk=upload.pk)
    try:
        enqueue_inspect(upload.pk)
    except UnavailableError as error:
        logger.warning("upload %s waits: %s", upload.pk, error.message)
        row.update(error={**error.as_dict(), "hint": "Your file is kept. Try again in a moment."})
        return False
    row.filter(error__code="unavailable").update(error=None)
    n_asked = upload.preview.get("n_asked", 0) + 1
    row.filter(state=Upload.State.READING).update(preview={"asked_at": time.time(), "n_asked": n_asked})
    return True


def uploads_ask_again() -> int:
    """For the reconciler: rings again for files that wait although the broker is there; gives up after a few times."""
    since = timezone.now() - timedelta(days=1)
    n_rung = 0
    waiting = Upload.objects.filter(state=Upload.State.READING, created_at__gte=since, size_bytes__gt=0)
    for upload in waiting[:100]:
        asked_at, n_asked = upload.preview.get("asked_at", 0), upload.preview.get("n_asked", 0)
        if not upload.error and time.time() - asked_at < ASK_AGAIN_AFTER_S:
            continue
        if n_asked >= MAX_ASKED:
            upload_refused(upload=upload, error={
                "code": "reader_died", "message": f"The file could not be read in {n_asked} attempts.",
                "hint": "The worker stopped each time. Cut the file into smaller ones.", "permanent": True,
            })  # fmt: skip
        else:
            n_rung += upload_inspect(upload=upload)
    return n_rung


def upload_map(*, upload: Upload, mapping: Mapping[str, Any]) -> bool:
    """Keeps how the columns are to be read and asks for a new preview; see `upload_inspect`."""
    Upload.objects.filter(pk=upload.pk).update(mapping=dict(mapping), error=None)
    upload.mapping = dict(mapping)
    return upload_inspect(upload=upload)


def upload_inspected(*, upload: Upload, report: dict[str, Any]) -> None:
    """Written by the worker: what the file holds. Rows that cannot be read refuse it until someone leaves them out."""
    is_refused = bool(report["n_problems"])
    Upload.objects.filter(pk=upload.pk, state=Upload.State.READING).update(
        report=report, mapping=report["mapping"], error=None,
        state=Upload.State.REFUSED if is_refused else Upload.State.READY,
    )  # fmt: skip


def upload_refused(*, upload: Upload, error: dict[str, Any]) -> None:
    """Written by the worker: the file cannot be used at all."""
    Upload.objects.filter(pk=upload.pk, state=Upload.State.READING).update(state=Upload.State.REFUSED, error=error)


def upload_previewed(*, upload: Upload, mapping: dict[str, Any], preview: dict[str, Any]) -> None:
    """Written by the worker: the head rows under `mapping` (kept as `for`), or an `error`."""
    Upload.objects.filter(pk=upload.pk).update(preview={**preview, "for": mapping})


def upload_reopen(*, upload: Upload) -> None:
    """Makes a used or refused upload ready to be mapped (again), if it has rows that can be read."""
    if not upload.report.get("n_rows"):
        raise ColdframeError(f"{upload.filename} has no rows that can be read.", hint="Repair the file and upload it.")
    Upload.objects.filter(pk=upload.pk).update(
        state=Upload.State.READY, report={key: v for key, v in upload.report.items() if key != "run"}
    )


def upload_again(*, upload: Upload) -> bool:
    """Has the file looked at once more after a failure of ours (a worker that died, a broker that was away)."""
    if upload.state == Upload.State.REFUSED and not upload.report:
        Upload.objects.filter(pk=upload.pk).update(state=Upload.State.READING, error=None)
    return upload_inspect(upload=upload)


@transaction.atomic
def upload_discard(*, upload: Upload, user: Any) -> None:
    """Forgets a file of which no version was made."""
    if upload.state == Upload.State.USED:
        raise ColdframeError(f"{upload.filename} is part of a data set by now.", hint="Archive the data set instead.",
                             status=409)  # fmt: skip
    if Run.objects.for_team(upload.team).filter(pk=upload.report.get("run")).exclude(state__in=Run.TERMINAL).exists():
        raise ColdframeError(f"A version is being made of {upload.filename}.", hint="Cancel its run first.", status=409)
    audit(team=upload.team, user=user, action="upload.discard", subject=upload.filename, sha256=upload.sha256)
    upload.delete()
    transaction.on_commit(partial(storage.delete, upload.storage_key), robust=True)
