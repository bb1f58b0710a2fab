"""Writes on the team library: publishing versions, moving aliases, naming and retiring adapters.

A version is written once and never changed. `adapter_publish` runs inside the fenced transaction of jobs/publish.py,
after the files were put into the storage; a dead fence writes nothing and a second call returns the same version.
`production` moves freely only to a version that is measurably better on the same rows; else a reason is asked for and
kept in the audit trail. Files are never deleted here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import Max
from django.utils.text import slugify

from ml.errors import ArtifactError, ColdframeError
from webapp.models import Adapter, AdapterVersion, Alias, DatasetVersion, Run, Team
from webapp.names import name_check
from webapp.selectors.metrics import with_headline
from webapp.services.aliases import ADAPTERS, PRODUCTION, alias_point
from webapp.services.library_names import adapter_name_check, adapter_name_free
from webapp.services.teams import audit


def _artifact_id(out: Path) -> str:
    try:
        return hashlib.sha256((out / "manifest.json").read_bytes()).hexdigest()
    except OSError as error:
        raise ArtifactError(f"manifest.json of the finished run cannot be read: {error}.") from error


def _adapter_of(run: Run) -> Adapter:
    """The adapter that the run grows."""
    try:
        name = name_check(str(run.spec.get("adapter") or slugify(run.title)[:80]), field="adapter")
    except ColdframeError:
        # What was trained is worth more than its name: it is published all the same, and can be renamed.
        name = f"run-{run.pk}"
    free = adapter_name_free(run.team, name)
    if free != name:
        said = f"Published as {free}: a prompt was called {name} meanwhile, and clients that ask for {name} get that."
        run.result = {**run.result, "notices": [*run.result.get("notices", []), said]}
        Run.objects.filter(pk=run.pk).update(result=run.result)
    return adapter_grown(team=run.team, user=run.created_by, name=free, run=run.pk)


def adapter_grown(*, team: Team, user: Any, name: str, **about: Any) -> Adapter:
    """The team's adapter of that name, locked; made where there is none, brought back where it was retired."""
    adapter, _ = Adapter.objects.get_or_create(team=team, name=name, defaults={"created_by": user})
    if adapter.is_retired:
        Adapter.objects.filter(pk=adapter.pk).update(is_retired=False)
        audit(team=team, user=user, action="adapter.restore", subject=adapter, **about)
    return Adapter.objects.select_for_update().get(pk=adapter.pk)


def version_add(
    *, adapter: Adapter, user: Any, artifact: str, manifest: Mapping[str, Any], n_trainable: int,
    metrics: Mapping[str, Any], dataset_version: DatasetVersion | None, run: Run | None = None,
) -> AdapterVersion:  # fmt: skip
    """The next version of a locked adapter, whose files are in the storage."""
    base = manifest.get("base") or {}
    return AdapterVersion.objects.create(
        team=adapter.team, created_by=user, adapter=adapter, artifact=artifact, manifest=manifest, metrics=metrics,
        number=(adapter.versions.aggregate(last=Max("number"))["last"] or 0) + 1, method=manifest.get("method", ""),
        form=manifest.get("form", ""), base_name=base.get("name", ""), base_fingerprint=base.get("fingerprint", ""),
        size_bytes=_size_bytes(manifest), n_trainable=n_trainable, dataset_version=dataset_version, run=run,
    )  # fmt: skip


def _size_bytes(manifest: Mapping[str, Any]) -> int:
    return sum(int(entry.get("bytes", 0)) for entry in manifest.get("files", {}).values())


def _metrics(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The last measurement of adapter and plain model on test rows, out of the manifest's evaluations."""
    found: dict[str, Any] = {}
    for report in manifest.get("evaluations") or []:
        name = {"adapter": "test", "plain": "plain"}.get(report.get("subject", ""))
        if name and report.get("split") == "test":
            found[name] = {**report["metrics"], "intervals": report["intervals"], "n_rows": report["n_rows"]}
    return with_headline(found)


@transaction.atomic
def adapter_publish(*, run: Run, out: Path, manifest: dict[str, Any], fence: int) -> AdapterVersion:
    """The run's version, numbered next under its adapter's name. Call after the files are in the storage."""
    if not Run.objects.select_for_update().filter(pk=run.pk, fence=fence).exists():
        raise ColdframeError(f"Run {run.pk} was taken over; fence {fence} is dead.", code="stale_fence", status=409)
    known = AdapterVersion.objects.filter(run=run).first()
    if known is not None:
        return known
    adapter = _adapter_of(run)
    version = version_add(
        adapter=adapter, user=run.created_by, artifact=_artifact_id(out), manifest=manifest, metrics=_metrics(manifest),
        n_trainable=int(manifest.get("n_trainable") or run.result.get("n_trainable") or 0),
        dataset_version=run.dataset_version, run=run,
    )  # fmt: skip
    audit(team=run.team, user=run.created_by, action="adapter.publish", subject=version, run=run.pk)
    if not adapter.aliases.filter(name=PRODUCTION).exists():
        Alias.objects.create(
            team=run.team, created_by=run.created_by, adapter=adapter, name=PRODUCTION, version=version
        )
        audit(team=run.team, user=run.created_by, action="alias.move", subject=f"{adapter}@{PRODUCTION}",
              to=version.number)  # fmt: skip
    return version


def alias_move(*, version: AdapterVersion, name: str, user: Any, reason: str = "") -> Alias:
    """Points `name` at `version`. Raises ColdframeError when `production` is held back and no reason is given."""
    moved: Alias = alias_point(ADAPTERS, version=version, name=name, user=user, reason=reason)
    return moved


@transaction.atomic
def adapter_edit(*, adapter: Adapter, user: Any, name: str, description: str) -> Adapter:
    """Renames and describes. The old name stops to resolve at once."""
    description, old = description.strip(), adapter.name
    name = name_check(name) if name == old else adapter_name_check(adapter.team, name)
    if len(description) > 300:
        raise ColdframeError(f"A description has at most 300 characters, got {len(description)}.", field="description")
    if Adapter.objects.for_team(adapter.team).filter(name=name).exclude(pk=adapter.pk).exists():
        raise ColdframeError(f"There is an adapter {name!r} already.", field="name", status=409)
    adapter.name, adapter.description = name, description
    adapter.save(update_fields=["name", "description"])
    audit(team=adapter.team, user=user, action="adapter.edit", subject=name, **({"from": old} if old != name else {}))
    return adapter


@transaction.atomic
def adapter_retire(*, adapter: Adapter, user: Any, is_retired: bool = True) -> Adapter:
    """Takes an adapter out of the library, or brings it back. Its versions and files stay."""
    if Adapter.objects.filter(pk=adapter.pk, is_retired=not is_retired).update(is_retired=is_retired):
        audit(team=adapter.team, user=user, action="adapter.retire" if is_retired else "adapter.restore",
              subject=adapter)  # fmt: skip
    adapter.is_retired = is_retired
    return adapter
