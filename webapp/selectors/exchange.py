"""What was exported of a version, and what can be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.shortcuts import get_object_or_404
from django.utils import timezone

from ml.errors import NotFoundError
from ml.specs.merging import Reason, why_not_merged
from webapp import storage
from webapp.models import AdapterVersion, Run, Team

EXPORT_DAYS = 7
"""How long an exported model is kept."""
SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Export:
    """A run that took a version out, as shown beside it."""

    run: Run
    is_ready: bool
    """There is something to download."""
    kept_until: Any = None


def export_of(run: Run) -> Export:
    """How an export run stands."""
    until = run.finished_at + timedelta(days=EXPORT_DAYS) if run.finished_at else None
    is_kept = bool(run.result.get("export")) and until is not None and until > timezone.now()
    return Export(run=run, is_ready=is_kept, kept_until=until)


def exports_of(version: AdapterVersion) -> list[Export]:
    """The newest first; what is gone is left out."""
    runs = Run.objects.for_team(version.team).filter(kind=Run.Kind.EXPORT, spec__version=version.pk).order_by("-pk")
    found = [export_of(run) for run in runs[:SHOWN]]
    return [export for export in found if export.is_ready or not export.run.result.get("export")]


def export_run(*, team: Team, pk: int) -> Run:
    """The team's export run; Http404 for any other."""
    return get_object_or_404(Run.objects.for_team(team), pk=pk, kind=Run.Kind.EXPORT)


def export_files(*, run: Run) -> tuple[Path, list[str]]:
    """Folder and file names of a finished export. Raises NotFoundError (410) once it was removed."""
    export = run.result.get("export") or {}
    if run.kind != Run.Kind.EXPORT or not export:
        raise NotFoundError("This run has nothing to download.", hint="Wait until it is done, or export again.")
    if run.finished_at is None or run.finished_at < timezone.now() - timedelta(days=EXPORT_DAYS):
        raise NotFoundError(
            f"An exported model is kept for {EXPORT_DAYS} days; this one is gone.", hint="Export it again.", status=410
        )
    return storage.path_of(export["key"]), list(export["files"])


def why_not(version: AdapterVersion) -> Reason | None:
    return why_not_merged(version.method)


def has_hub() -> bool:
    """Whether this server may upload."""
    return bool(settings.HF_TOKEN)
