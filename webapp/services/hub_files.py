"""A data file out of a public repository of a hub: asked for here, fetched by a run, then an upload like any other.

Guarantees: the web process never talks to the hub; the file that comes goes through the same checks and the same
reading as one that a browser sends; a fetch that fails says why on the upload's page and leaves no file.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from django.conf import settings
from django.db import transaction

from ml.errors import ColdframeError, SpecError
from webapp import storage
from webapp.models import Run, Team, Upload
from webapp.services.runs import run_submit
from webapp.services.teams import audit
from webapp.services.uploads import upload_inspect
from webapp.upload_checks import HEAD_BYTES, check_head, check_size, shown_name, suffix_of

FETCH = "fetch"
"""Kind of spec of a run that fetches."""
LONGEST = {"repo": 200, "file": 300, "revision": 100}


@transaction.atomic
def hub_fetch_submit(*, team: Team, user: Any, repo: str, file: str = "", revision: str = "") -> Upload:
    """An upload that a run fills with one file of `repo`. Raises SpecError for names that cannot be."""
    given = {"repo": repo.strip(), "file": file.strip(), "revision": revision.strip()}
    if not given["repo"]:
        raise SpecError("No repository was named.", hint="Give owner/name, as on its page.", field="repo")
    for field, value in given.items():
        if len(value) > LONGEST[field] or not value.isprintable() or ".." in value or value.startswith("/"):
            raise SpecError(f"{value[:80]!r} is no {field} of a hub.", field=field,
                            hint="For example owner/name, data/train.jsonl, main.")  # fmt: skip
    name = PurePosixPath(given["file"]).name or given["repo"].rpartition("/")[2]
    upload = Upload.objects.create(
        team=team, created_by=user, key=uuid.uuid4(), filename=shown_name(name), size_bytes=0, sha256=""
    )
    run = run_submit(
        team=team, user=user, kind=Run.Kind.VALIDATE, title=given["repo"],
        spec={"kind": FETCH, **given, "max_bytes": settings.MAX_UPLOAD_BYTES, "upload": upload.pk},
    )  # fmt: skip
    Upload.objects.filter(pk=upload.pk).update(report={"run": run.pk})
    audit(team=team, user=user, action="upload.fetch", subject=given["repo"], file=given["file"], run=run.pk)
    upload.refresh_from_db()
    return upload


def hub_fetched(*, run: Run, out: Path) -> Upload | None:
    """Keeps what a run fetched and has it looked at; None when the upload was removed meanwhile."""
    upload = Upload.objects.select_for_update().for_team(run.team).filter(pk=run.spec["upload"]).first()
    if upload is None:
        return None
    about = json.loads(out.with_name("fetched.json").read_text(encoding="utf-8"))
    name = shown_name(PurePosixPath(about["file"]).name)
    try:
        suffix_of(name)
        with out.open("rb") as file:
            check_head(file.read(HEAD_BYTES), name)
        check_size(out.stat().st_size, name)
    except ColdframeError as error:
        Upload.objects.filter(pk=upload.pk).update(state=Upload.State.REFUSED, report={}, error=error.as_dict())
        return upload
    with out.open("rb") as file:
        upload.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        storage.put_file(file, upload.storage_key)
    upload.filename, upload.size_bytes, upload.report, upload.error = name, out.stat().st_size, {}, None
    upload.save(update_fields=["filename", "size_bytes", "report", "sha256", "error"])
    origin = f"{about['repo']}/{about['file']}"
    Run.objects.filter(pk=run.pk).update(result={**run.result, "file": origin, "commit": about["commit"]})
    transaction.on_commit(partial(upload_inspect, upload=upload), robust=True)
    return upload


def hub_fetch_over(*, run: Run) -> None:
    """A fetch ended without a file: the upload's page says why."""
    error = run.error or {"message": f"Run #{run.pk} was cancelled before the file had come."}
    Upload.objects.filter(pk=run.spec.get("upload"), team=run.team, size_bytes=0).update(
        state=Upload.State.REFUSED, report={}, error={**error, "permanent": True}
    )
