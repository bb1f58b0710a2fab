"""From a study's entry to the library: an adapter or a prompt with its figures, and the alias that is to point at it.

Guarantees: files are checked against their manifest and put into the storage first; version, evaluation and alias are
then one transaction, so an alias that is held back leaves nothing behind. An entry becomes one version, however often
it is promoted. Its answered rows become an evaluation, and what was compared row by row when the study was published
becomes comparisons, so that the gate of `production` judges on the same rows. Runs in a web process: weights of a large
model take as long as the disk needs to copy them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction

from ml.errors import ArtifactError, ColdframeError, SpecError
from ml.specs.study import TECHNIQUES
from webapp import storage
from webapp.models import AdapterVersion, Prompt, PromptVersion, StudyEntry
from webapp.names import name_check
from webapp.selectors.metrics import with_headline
from webapp.services.adapters import adapter_grown, version_add
from webapp.services.aliases import ADAPTERS, PRODUCTION, PROMPTS, alias_point
from webapp.services.prompts import prompt_create, version_create
from webapp.services.study_evaluations import Answers, answers_stored, evaluation_made
from webapp.services.teams import audit

CHUNK_BYTES = 1 << 20
Version = AdapterVersion | PromptVersion


def study_promote(*, entry: StudyEntry, user: Any, name: str, alias: str = PRODUCTION, reason: str = "") -> Version:
    """The entry as a version of the adapter or prompt `name`, with `alias` pointing at it; "" moves none.

    A second call returns the same version; `name` may then be empty. Raises SpecError with `field` set, ArtifactError
    for damaged files, and ColdframeError (409): held_back without a reason, or promoted by another name.
    """
    known = entry.adapter_version or entry.prompt_version
    if known is not None:
        name = _known_name(known, name)
    elif why := why_not_promoted(entry):
        raise SpecError(why, field="entry", hint="The leaderboard names the entry of each technique that can be.")
    name = name_check(name)
    with _gone_meanwhile(entry):
        artifact = _artifact_stored(entry) if known is None and entry.summary["kind"] == "trained" else None
        answers = answers_stored(entry) if known is None else None
        return _promoted(entry, user, name, alias.strip(), reason, artifact=artifact, answers=answers)


def why_not_promoted(entry: StudyEntry) -> str:
    """ "" where it can be."""
    about = entry.summary
    if entry.state != "done":
        return f"{entry.key} was not measured, so there is nothing to promote."
    if about["kind"] == "trained":
        return "" if about.get("artifact") else f"The weights of {entry.key} were not kept: another seed did better."
    if entry.technique == "plain":
        return "The untouched model needs no place in the library: it answers as base."
    if TECHNIQUES[entry.technique].needs_collection and entry.study.collection is None:
        return f"The collection {entry.study.spec['collection']} was deleted: a prompt would have nothing to search."
    return "" if entry.share == 1 else f"{entry.key} shows examples out of a part of the rows only."


def _known_name(version: Version, name: str) -> str:
    known = (version.adapter if isinstance(version, AdapterVersion) else version.prompt).name
    if name and name != known:
        raise ColdframeError(f"It is in the library already, as {version}.", code="conflict", status=409, field="name",
                             hint="Rename it there, or promote another entry.")  # fmt: skip
    return known


@contextmanager
def _gone_meanwhile(entry: StudyEntry) -> Iterator[None]:
    """A study that is extended at the same moment has its files under another name."""
    try:
        yield
    except FileNotFoundError as error:
        raise ColdframeError(f"Files of {entry.key} are not there any more.", code="conflict", status=409,
                             hint="The study may have been extended meanwhile: look again.") from error  # fmt: skip


@transaction.atomic
def _promoted(
    entry: StudyEntry, user: Any, name: str, alias: str, reason: str, *, artifact: tuple[str, dict[str, Any]] | None,
    answers: Answers | None,
) -> Version:  # fmt: skip
    # Two people may promote at once: the second gets the first one's version.
    locked = StudyEntry.objects.select_for_update().get(pk=entry.pk)
    version: Version | None = locked.adapter_version or locked.prompt_version
    if version is None and answers is not None:
        if artifact is not None:
            version = entry.adapter_version = _adapter_made(entry, user, name, *artifact)
        else:
            version = entry.prompt_version = _prompt_made(entry, user, name)
        entry.save(update_fields=["adapter_version", "prompt_version"])
        evaluation_made(entry=entry, version=version, user=user, answers=answers)
        audit(team=entry.study.team, user=user, action="study.promote", subject=version, study=entry.study.name,
              entry=entry.key)  # fmt: skip
    elif version is None:
        raise ColdframeError(f"{entry.key} was measured anew meanwhile.", code="conflict", status=409,
                             hint="Look again, then decide.")  # fmt: skip
    if alias:
        kind = ADAPTERS if isinstance(version, AdapterVersion) else PROMPTS
        alias_point(kind, version=version, name=alias, user=user, reason=reason)
    return version


def _artifact_stored(entry: StudyEntry) -> tuple[str, dict[str, Any]]:
    """The artifact's id and its manifest, its files under `artifacts/` in the storage."""
    folder = storage.path_of(entry.study.storage_key) / "artifacts" / storage.check_key(entry.key)
    raw = (folder / "manifest.json").read_bytes()
    try:
        manifest = dict(json.loads(raw))
        files = {str(file): str(about["sha256"]) for file, about in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"The manifest of {entry.key} cannot be read: {error}.") from error
    for file, sha256 in files.items():
        if _sha256_of(folder / storage.check_key(file)) != sha256:
            raise ArtifactError(f"{file} of {entry.key} is not what its manifest says: it is damaged.",
                                hint="Extend the study by another seed, which trains it anew.")  # fmt: skip
    artifact = hashlib.sha256(raw).hexdigest()
    storage.put_folder(folder, f"artifacts/{artifact}")
    return artifact, manifest


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _metrics(entry: StudyEntry) -> dict[str, Any]:
    """Its figures on the test rows, and the untouched model's on the same ones where the study has them."""
    plain = entry.study.entries.filter(technique="plain", state="done", share=1).first()
    found = {"test": entry, **({"plain": plain} if plain else {})}
    return with_headline({
        name: {**_known(one.summary["metrics"]), "intervals": one.summary["intervals"],
               "n_rows": one.summary["n_rows"]}
        for name, one in found.items()
    })  # fmt: skip


def _known(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if value is not None}


def _adapter_made(entry: StudyEntry, user: Any, name: str, artifact: str, manifest: dict[str, Any]) -> AdapterVersion:
    study = entry.study
    if Prompt.objects.for_team(study.team).filter(name=name).exists():
        raise SpecError(f"There is a prompt {name!r} already.", field="name", hint="Choose another name.")
    adapter = adapter_grown(team=study.team, user=user, name=name)
    return version_add(
        adapter=adapter, user=user, artifact=artifact, manifest=manifest, metrics=_metrics(entry),
        n_trainable=int(entry.summary.get("n_trainable") or 0), dataset_version=study.dataset_version,
    )  # fmt: skip


def _prompt_made(entry: StudyEntry, user: Any, name: str) -> PromptVersion:
    study = entry.study
    content = _content(entry)
    known = Prompt.objects.for_team(study.team).filter(name=name).first()
    if known is not None:
        return version_create(prompt=known, user=user, **content)
    return prompt_create(team=study.team, user=user, name=name, description=f"From the study {study.name}."[:300],
                         **content)  # fmt: skip


def _content(entry: StudyEntry) -> dict[str, Any]:
    """What the cell asked with, as a prompt version takes it."""
    path = storage.path_of(entry.study.storage_key) / "cells" / f"{storage.check_key(entry.key)}.json"
    asked = json.loads(path.read_text(encoding="utf-8"))["spec"]
    rule = asked.get("rule") or {}
    kept = ("technique", "system", "template", "pick", "k", "examples", "n_samples", "sample_temperature")
    return {
        **{name: asked[name] for name in kept if name in asked}, "dataset": entry.study.dataset_version,
        "base_model": "" if entry.study.base_name == settings.BASE_MODEL else entry.study.base_name,
        "collection": entry.study.collection if TECHNIQUES[entry.technique].needs_collection else None,
        "answer_kind": rule.get("kind", ""), "marker": rule.get("marker", ""),
    }  # fmt: skip
