"""Data sets and their immutable versions: asked for, published by a worker, archived.

Guarantees: a data set's row appears together with its first version, so a file that turns out unusable leaves nothing
behind; versions are numbered without gaps under a lock; publishing twice gives the same version; content that equals an
existing version of the same data set becomes no second one.
"""

from __future__ import annotations

import io
import json
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Max

from ml.errors import ColdframeError, SpecError
from webapp import storage
from webapp.models import Dataset, DatasetVersion, Run, Team, Upload
from webapp.names import name_check
from webapp.reading import read_in_child
from webapp.services.draft_versions import draft_stored
from webapp.services.hub_files import FETCH, hub_fetch_over, hub_fetched
from webapp.services.mappings import held_out_of, mapping_check, seed_check, splits_check
from webapp.services.runs import run_submit
from webapp.services.teams import audit

DEFAULT_SPLITS: dict[str, Any] = {"kind": "stratified", "validation": 0.1, "test": 0.1}
CHILD_TIMEOUT_S = 300
RESERVED = ("uploads",)


def dataset_name_check(name: Any) -> str:
    """As `name_check`; `uploads` is an address of the API."""
    checked = name_check(name)
    if checked in RESERVED:
        raise SpecError(f"No data set can be called {checked}.", hint=f"Try {checked}-1.", field="name")
    return checked


@transaction.atomic
def version_submit(
    *, team: Team, user: Any, upload: Upload, name: str, mapping: Mapping[str, Any], splits: Mapping[str, Any],
    seed: int = 17, leave_out: bool = False, drop_duplicates: bool = False, drop_leaks: bool = False,
) -> Run:  # fmt: skip
    """A run that reads the whole upload and makes a version of the data set called `name` (made when there is none).

    Raises SpecError with `field` set for a mapping or splits that do not fit the file, ColdframeError (409) for a file
    that is not ready.
    """
    name = dataset_name_check(name)
    if upload.state not in (Upload.State.READY, Upload.State.REFUSED) or not upload.report.get("n_rows"):
        raise ColdframeError(
            f"{upload.filename} is not ready: {upload.get_state_display().lower()}.",
            hint="Wait until it has been read, or open it again.", status=409,
        )  # fmt: skip
    mapping, splits, seed = mapping_check(upload, mapping), splits_check(upload, splits), seed_check(seed)
    held_out = held_out_of(upload, splits, mapping)
    spec = {
        "kind": "validate", "source": upload.storage_key, "filename": upload.filename,
        "format": upload.report.get("format"), "mapping": mapping, "splits": splits, "seed": seed,
        "leave_out": leave_out, "drop_duplicates": drop_duplicates, "drop_leaks": drop_leaks,
        "base": settings.BASE_MODEL, "dataset": name, "upload": upload.pk,
    }  # fmt: skip
    if held_out:
        spec["splits"] = {"kind": splits["kind"]}
        spec["parts"] = [{"source": other.storage_key, "filename": other.filename, "split": split, "upload": other.pk}
                         for split, other in held_out]  # fmt: skip
    run = run_submit(team=team, user=user, kind=Run.Kind.VALIDATE, title=name, spec=spec)
    for row in (upload, *(other for _, other in held_out)):
        Upload.objects.filter(pk=row.pk).update(
            mapping=mapping, error=None, state=Upload.State.READY, report={**row.report, "run": run.pk}
        )
    audit(team=team, user=user, action="dataset.submit", subject=name, file=upload.filename, run=run.pk)
    return run


@transaction.atomic
def version_publish(*, run: Run, out: Path) -> DatasetVersion | None:
    """Registers what a validate run made; its folder is in the storage already or is put there now.

    None for a run that only fetched a file: that becomes an upload.
    """
    if run.spec.get("kind") == FETCH:
        hub_fetched(run=run, out=Path(out))
        return None
    upload = Upload.objects.for_team(run.team).filter(pk=run.spec.get("upload")).first()
    version = _version_create(
        team=run.team, user=run.created_by, name=run.spec["dataset"], out=Path(out), run=run, upload=upload,
        filename=run.spec.get("filename", ""),
    )  # fmt: skip
    draft_stored(run=run, version=version)
    Run.objects.filter(pk=run.pk).update(
        result={**run.result, "dataset_version": version.pk, "name": str(version), "is_new": version.run_id == run.pk}
    )
    return version


def version_run_over(*, run: Run) -> None:
    """A validate run ended without a version: the upload's page shows why and can be sent again."""
    if run.spec.get("kind") == FETCH:
        hub_fetch_over(run=run)
        return
    Upload.objects.filter(pk=run.spec.get("upload"), team=run.team).update(error=run.error)


def version_from_rows(
    *, team: Team, user: Any, name: str, rows: Sequence[Mapping[str, Any]], mapping: Mapping[str, Any],
    splits: Mapping[str, Any] | None = None, seed: int = 17,
) -> DatasetVersion:  # fmt: skip
    """A version made here and now of a few rows, without a worker: the demo, corrected answers. Takes about a second.

    The reading is done by a child process (`python -m ml validate`), so nothing heavy is imported.
    """
    name = dataset_name_check(name)
    text = "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows).encode()
    upload = Upload(team=team, created_by=user, key=uuid.uuid4(), filename=f"{name}.jsonl", size_bytes=len(text))
    source = storage.put_file(io.BytesIO(text), upload.storage_key)
    spec = {
        "kind": "validate", "source_path": str(source), "filename": upload.filename, "mapping": dict(mapping),
        "splits": dict(splits or DEFAULT_SPLITS), "seed": seed,
    }  # fmt: skip
    try:
        with tempfile.TemporaryDirectory(dir=settings.RUNS_DIR) as folder:
            out = read_in_child(spec=spec, workdir=Path(folder), timeout_s=CHILD_TIMEOUT_S)
            return _version_create(
                team=team, user=user, name=name, out=out, run=None, upload=None, filename=upload.filename
            )
    finally:
        storage.delete(upload.storage_key)


@transaction.atomic
def _version_create(
    *, team: Team, user: Any, name: str, out: Path, run: Run | None, upload: Upload | None, filename: str
) -> DatasetVersion:
    about = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    stats = json.loads((out / "report.json").read_text(encoding="utf-8"))
    storage.put_folder(out, f"datasets/{about['sha256']}")
    others = list(Upload.objects.for_team(team).filter(pk__in=_parts_of(run))) if run else []
    if upload is not None:
        stats["source"] = {"sha256": upload.sha256, "bytes": upload.size_bytes, "upload": upload.pk}
    if others:
        stats["held_out"] = [{"sha256": one.sha256, "filename": one.filename, "upload": one.pk} for one in others]
    dataset, _ = Dataset.objects.get_or_create(team=team, name=name, defaults={"created_by": user})
    # The lock serialises the numbering on Postgres; on SQLite the transaction is exclusive from its start.
    Dataset.objects.select_for_update().get(pk=dataset.pk)
    version = dataset.versions.filter(sha256=about["sha256"]).first()
    if version is None:
        newest = dataset.versions.aggregate(newest=Max("number"))["newest"] or 0
        version = DatasetVersion.objects.create(
            team=team, created_by=user, dataset=dataset, number=newest + 1, sha256=about["sha256"], task=about["task"],
            labels=about["labels"], columns=about["columns"], mapping=about["mapping"], splits=about["splits"],
            stats=stats, filename=filename, run=run,
        )  # fmt: skip
        audit(team=team, user=user, action="dataset.version", subject=version, rows=version.n_rows)
    Dataset.objects.filter(pk=dataset.pk, is_archived=True).update(is_archived=False)
    made_of = [one.pk for one in (upload, *others) if one is not None]
    Upload.objects.filter(pk__in=made_of).update(state=Upload.State.USED, dataset=dataset, error=None)
    return version


def _parts_of(run: Run) -> list[int]:
    """Ids of the uploads with held-out rows."""
    return [part["upload"] for part in run.spec.get("parts") or ()]


@transaction.atomic
def dataset_archive(*, dataset: Dataset, user: Any, is_archived: bool) -> None:
    """Takes a data set out of lists and choices, or puts it back; versions, runs and adapters stay as they are."""
    if Dataset.objects.filter(pk=dataset.pk).exclude(is_archived=is_archived).update(is_archived=is_archived):
        action = "dataset.archive" if is_archived else "dataset.restore"
        audit(team=dataset.team, user=user, action=action, subject=dataset.name)


@transaction.atomic
def dataset_describe(*, dataset: Dataset, user: Any, description: str) -> None:
    """One line of what the rows are."""
    text = " ".join(description.split())
    if len(text) > 300:
        raise SpecError(f"A description has at most 300 characters, got {len(text)}.", field="description")
    Dataset.objects.filter(pk=dataset.pk).update(description=text)
    audit(team=dataset.team, user=user, action="dataset.describe", subject=dataset.name)
