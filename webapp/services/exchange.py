"""Adapters that come in from elsewhere and go out: an upload becomes a version, a version one model or a page of a hub.

Guarantees: an upload lies under a UUID and is only opened by a run's child; nothing is published but what that child
checked and wrote itself; what is exported is kept for EXPORT_DAYS and then removed. Not here: what is checked
(ml/foreign), and versions themselves (services/adapters.py).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import IO, Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from ml.errors import ColdframeError, SpecError, UnavailableError
from ml.specs.merging import why_not_merged
from webapp import storage
from webapp.models import AdapterVersion, BaseModel, Run, Team
from webapp.selectors.exchange import EXPORT_DAYS
from webapp.services.adapters import adapter_publish
from webapp.services.library_names import adapter_name_check
from webapp.services.runs import run_submit
from webapp.services.teams import audit
from webapp.upload_checks import UnsupportedFileError, check_size, shown_name

SOURCE_DAYS = 1
"""How long the upload of an import that failed is kept, for a retry."""
_ZIP = b"PK\x03\x04"
_REPO = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,95}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def import_submit(
    *, team: Team, user: Any, file: IO[bytes], filename: str, size_bytes: int, name: str, base: str,
    labels: Sequence[str] = (),
) -> Run:  # fmt: skip
    """Keeps a zip of a PEFT folder and asks for it to be checked and published as the next version of `name`.

    Raises ColdframeError (413, 415) for what is no zip of an allowed size, SpecError for a bad name or base.
    """
    name, shown = adapter_name_check(team, name), shown_name(filename)
    if not BaseModel.objects.filter(name=base).exclude(family="embedding").exists():
        raise SpecError(f"There is no base model {base[:80]!r}.", hint="Choose one from the list.", field="base")
    check_size(size_bytes, shown)
    if file.read(4) != _ZIP:
        raise UnsupportedFileError(
            f"{shown} is not a zip archive.", field="file",
            hint="Zip the folder that peft's save_pretrained wrote: adapter_config.json and adapter_model.safetensors.",
        )  # fmt: skip
    file.seek(0)
    key = f"uploads/{uuid.uuid4()}"
    storage.put_file(file, key)
    with transaction.atomic():
        run = run_submit(
            team=team, user=user, kind=Run.Kind.IMPORT, title=name,
            spec={
                "kind": "import", "adapter": name, "source": key, "filename": shown, "base": base,
                "labels": list(labels),
            },
        )  # fmt: skip
        audit(team=team, user=user, action="adapter.import", subject=name, file=shown, run=run.pk)
    return run


def import_publish(*, run: Run, out: Path, manifest: dict[str, Any], fence: int) -> AdapterVersion:
    """The version, as for a trained one; the upload is not needed any more."""
    version = adapter_publish(run=run, out=out, manifest=manifest, fence=fence)
    transaction.on_commit(partial(storage.delete, run.spec["source"]), robust=True)
    return version


def export_submit(*, version: AdapterVersion, user: Any) -> Run:
    """Asks for base model and adapter as one whole model. Raises ColdframeError (409) for what cannot be merged."""
    _check_merges(version)
    spec = {"to": "file", "key": f"exports/{uuid.uuid4()}", "merged": True}
    return _submit(version, user, spec, title=f"{version} merged")


def hub_submit(*, version: AdapterVersion, user: Any, repo: str, merged: bool = False, is_public: bool = False) -> Run:
    """Asks for the version to be put on the Hub. Raises UnavailableError when this server has no token."""
    if not settings.HF_TOKEN:
        raise UnavailableError("This server has no token for the Hub.", hint="Ask the operator to set HF_TOKEN.")
    repo = repo.strip()
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise SpecError(f"{repo[:100]!r} is no repository name.", hint="Give name or owner/name.", field="repo")
    if merged:
        _check_merges(version)
    spec = {"to": "hub", "repo": repo, "merged": merged, "is_public": is_public}
    return _submit(version, user, spec, title=f"{version} to {repo}")


def _check_merges(version: AdapterVersion) -> None:
    if reason := why_not_merged(version.method):
        raise ColdframeError(reason.text, hint=reason.hint, code="does_not_merge", status=409)


@transaction.atomic
def _submit(version: AdapterVersion, user: Any, spec: dict[str, Any], *, title: str) -> Run:
    about = {"kind": "export", "version": version.pk, "artifact": version.artifact, "base": version.base_name}
    run = run_submit(team=version.team, user=user, kind=Run.Kind.EXPORT, title=title, spec={**about, **spec})
    audit(
        team=version.team, user=user, action="adapter.export", subject=version, run=run.pk, to=spec.get("repo", "file")
    )
    return run


def export_publish(*, run: Run, out: Path) -> None:
    """Notes what lies in the storage for a download; an upload has its URL in the result already."""
    if run.spec.get("to") == "hub":
        return
    files = {path.name: path.stat().st_size for path in sorted(Path(out).iterdir())}
    export = {"key": run.spec["key"], "files": sorted(files), "bytes": sum(files.values())}
    Run.objects.filter(pk=run.pk).update(result={**run.result, "export": export})


def exchange_expire() -> int:
    """For the reconciler: removes old exports and the uploads of imports that are over; returns how many."""
    now, n_removed = timezone.now(), 0
    for kind, days, key_of in (
        (Run.Kind.EXPORT, EXPORT_DAYS, lambda run: (run.result.get("export") or {}).get("key")),
        (Run.Kind.IMPORT, SOURCE_DAYS, lambda run: run.spec.get("source")),
    ):
        # Looked at for a week after their day: a reconciler that was away misses nothing.
        late = now - timedelta(days=days)
        over = Run.objects.filter(kind=kind, state__in=Run.TERMINAL, finished_at__lt=late)
        for run in over.filter(finished_at__gt=late - timedelta(days=7)):
            key = key_of(run)
            if key and storage.exists(key):
                storage.delete(key)
                n_removed += 1
    return n_removed
