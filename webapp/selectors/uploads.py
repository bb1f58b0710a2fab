"""An upload as its page shows it: what was found, what was mapped, what is being made of it."""

from __future__ import annotations

from typing import Any

from django.db.models import Max

from ml.errors import NotFoundError
from webapp.models import Dataset, DatasetVersion, Run, Team, Upload
from webapp.services.mappings import PLACEHOLDER

MAX_SIBLINGS = 50


def upload_of(team: Team, pk: int) -> Upload:
    found = Upload.objects.for_team(team).filter(pk=pk).first()
    if found is None:
        raise NotFoundError(f"There is no upload {pk} in this team.", hint="It may have been removed.")
    return found


def run_of(upload: Upload) -> Run | None:
    """The run that makes, or failed to make, a version of this file."""
    pk = upload.report.get("run")
    return Run.objects.for_team(upload.team).filter(pk=pk).first() if pk else None


def versions_from(upload: Upload) -> list[DatasetVersion]:
    """Versions that were made of the same bytes."""
    rows = DatasetVersion.objects.for_team(upload.team).select_related("dataset")
    return list(rows.filter(stats__source__sha256=upload.sha256).order_by("-created_at")[:5])


def siblings_of(upload: Upload) -> list[Upload]:
    """The team's other files with the same columns: what the held-out rows of a version may be in."""
    columns = {column["name"] for column in upload.report.get("columns", [])}
    others = Upload.objects.for_team(upload.team).exclude(pk=upload.pk).exclude(state=Upload.State.READING)
    found = []
    for other in others.defer("preview")[:MAX_SIBLINGS]:
        if other.report.get("n_rows") and columns <= {column["name"] for column in other.report["columns"]}:
            found.append(other)
    return found


def is_fresh(upload: Upload) -> bool:
    """True when the preview is of the mapping as it is now."""
    return bool(upload.preview) and upload.preview.get("for") == upload.mapping


def roles_of(upload: Upload) -> list[dict[str, Any]]:
    """The file's columns, each with what the mapping makes of it."""
    mapping = upload.mapping
    prompt = set(PLACEHOLDER.findall(mapping.get("prompt", "")))
    completion = mapping.get("completion", "")
    answers = {completion} | set(PLACEHOLDER.findall(completion))
    split = upload.report.get("split_column", "")
    rows = []
    for column in upload.report.get("columns", []):
        name = column["name"]
        if name == mapping.get("column"):
            rows.append({**column, "role": "conversation"})
            continue
        role = "prompt" if name in prompt else "completion" if name in answers else "split" if name == split else "out"
        rows.append({**column, "role": role})
    return rows


def next_numbers(team: Team) -> dict[str, int]:
    """Name of every data set of the team, with the number that its next version gets."""
    rows = Dataset.objects.for_team(team).annotate(newest=Max("versions__number")).values_list("name", "newest")
    return {name: (newest or 0) + 1 for name, newest in rows[:500]}
