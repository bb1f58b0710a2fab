"""Writes on studies: asked for, extended, renamed, archived, stopped, gone on with, published.

Guarantees: a study, its run and the doorbell are one transaction, and what can be known beforehand is checked before
anything is written. A study has one run at a time: of two people who extend it at once the second is told. It stays on
its data set version, whatever becomes of the data set. Publishing runs inside the fenced transaction of
jobs/publish.py; doing it twice leaves the same rows. Putting an entry into the library: services/study_promotions.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from django.db import transaction

from ml.errors import ColdframeError, DataError, NotFoundError, SpecError
from ml.specs.measures import has_number
from ml.specs.prompting import LABELS, placeholders
from ml.specs.study import TECHNIQUES, StudySpec, study_spec
from ml.specs.tasks import learnt_as
from webapp.models import DatasetVersion, Run, RunEvent, Study, StudyEntry, Team
from webapp.selectors.dataset_rows import rows_of
from webapp.services.runs import base_family, run_cancel, run_retry, run_submit
from webapp.services.study_collections import collection_for, collection_given
from webapp.services.teams import audit

LONGEST_NAME = 120
MOST_LABELS = 500
"""Every label is scored for every row, and an instruction names them all."""
NOT_SUMMED_UP = ("tries", "curve", "spec")
"""Of a cell: read from the storage when they are shown."""


def _named(name: Any, default: str) -> str:
    text = " ".join(str(name or "").replace("\x00", "").split()) or default
    if len(text) > LONGEST_NAME:
        raise SpecError(f"A study's name has at most {LONGEST_NAME} characters, got {len(text)}.", field="name")
    return text


def _checked(given: Mapping[str, Any], version: DatasetVersion) -> StudySpec:
    """The whole spec, and that this version has the rows for it. Raises SpecError or DataError with `field` set."""
    base = given.get("base")
    if not isinstance(base, str) or not base:
        raise SpecError(f"A study needs a base model, got {base!r:.80}.", field="base")
    spec = study_spec(
        {**given, "dataset": str(version), "dataset_sha256": version.sha256}, task=version.task,
        family=base_family(base),
    )  # fmt: skip
    _check_rows(spec, version)
    _check_labels(spec, version)
    if spec.metric == "numeric" and not all(
        has_number(row["completion"]) for row in islice(rows_of(version, "test"), spec.test_rows)
    ):
        raise SpecError("The numeric answer needs a number in every expected answer, and some here have none.",
                        hint="Choose another metric.", field="metric")  # fmt: skip
    return spec


def _check_rows(spec: StudySpec, version: DatasetVersion) -> None:
    n_train, n_valid, n_test = (int(version.splits.get(name) or 0) for name in ("train", "validation", "test"))
    trains = any(TECHNIQUES[name].kind == "trained" for name in spec.techniques)
    hint = "Make a version of the data set with that split."
    if n_test < 2:
        raise DataError(f"{version} has {n_test} test rows; a study measures on at least 2.", hint=hint,
                        field="dataset")  # fmt: skip
    if not n_train:
        raise DataError(f"{version} has no training rows.", hint=hint, field="dataset")
    if trains and spec.n_tries > 1 and not n_valid:
        raise DataError(
            f"{version} has no validation rows, on which {spec.n_tries} learning rates would be compared.",
            hint=f"{hint} Or try one learning rate only.", field="n_tries",
        )  # fmt: skip


def _check_labels(spec: StudySpec, version: DatasetVersion) -> None:
    labels = list(version.labels or []) if learnt_as(version.task) == "classification" else None
    if labels is not None and len(labels) < 2:
        raise DataError(f"{version} has {len(labels)} label; there is nothing to tell apart.", field="dataset",
                        hint="Take data with two labels or more.")  # fmt: skip
    if labels is not None and len(labels) > MOST_LABELS:
        raise DataError(
            f"{version} has {len(labels):,} labels; a study scores at most {MOST_LABELS} for every row.",
            hint="Is the label column the right one? Group rare labels, or study the data as free text.",
            field="dataset",
        )  # fmt: skip
    known = [LABELS] if labels else []
    if unknown := [name for name in placeholders(spec.instruction) if name not in known]:
        raise SpecError(
            f"The instruction asks for {{{unknown[0]}}}, which stands for nothing here.", field="instruction",
            hint=f"{{{LABELS}}} stands for the labels." if labels else "Rows of this kind have no labels to name.",
        )  # fmt: skip


def _version_of(team: Team, pk: int) -> DatasetVersion:
    found = DatasetVersion.objects.for_team(team).select_related("dataset").filter(pk=pk).first()
    if found is None:
        raise NotFoundError(f"No data set version {pk} in this team.", field="dataset")
    return found


def _run_of(study: Study, user: Any, spec: StudySpec) -> Run:
    return run_submit(
        team=study.team, user=user, kind=Run.Kind.STUDY, title=study.name, dataset_version=study.dataset_version,
        spec={**spec.as_dict(), "kind": Run.Kind.STUDY.value, "study": study.pk},
    )  # fmt: skip


@transaction.atomic
def study_submit(
    *, team: Team, user: Any, name: str, dataset_version_id: int, given: Mapping[str, Any],
    planned: Mapping[str, Any] | None = None,
) -> Study:  # fmt: skip
    """Asks for a study. `given` is a StudySpec without dataset and dataset_sha256; `planned` is what its form showed.

    Raises NotFoundError, SpecError or DataError with `field` set.
    """
    version = _version_of(team, dataset_version_id)
    spec = _checked(given, version)
    study = Study.objects.create(
        team=team, created_by=user, name=_named(name, f"{version.dataset.name}: which technique?"),
        spec=spec.as_dict(), dataset_version=version, base_name=spec.base, metric=spec.metric,
        collection=collection_for(team, spec), planned=dict(planned or {}),
    )  # fmt: skip
    study.run = _run_of(study, user, spec)
    study.save(update_fields=["run"])
    audit(team=team, user=user, action="study.submit", subject=study, run=study.run.pk,
          techniques=", ".join(spec.techniques))  # fmt: skip
    return study


@transaction.atomic
def study_extend(
    *, study: Study, user: Any, techniques: Sequence[str] = (), seeds: Sequence[int] = (),
    shares: Sequence[float] = (), budget_s: float | None = None, collection: str = "",
) -> Study:  # fmt: skip
    """Adds to a study what is given, in a new run that takes over what is measured; what failed or was left out is
    tried again. `budget_s` is what this run may spend; None: as before. `collection` may be named where the study has
    none yet. Raises SpecError, or ColdframeError (409) while a run is active and when somebody else was first."""
    if study.run is not None and not study.run.is_over:
        raise _still_measured("Wait until it is done, or stop what is left.")
    spec = _extended(study, techniques, seeds, shares, budget_s, collection_given(study, collection))
    searched = collection_for(study.team, spec, study)
    run = _run_of(study, user, spec)
    # The row is locked from here on, so a run that is tried again at the same time is seen.
    if not Study.objects.filter(pk=study.pk, run_id=study.run_id).update(
        run=run, spec=spec.as_dict(), collection=searched
    ):
        raise ColdframeError("Somebody else extended the study meanwhile.", code="conflict", status=409,
                             hint="Look at what it has now, then add what is missing.")  # fmt: skip
    if Run.objects.filter(pk=study.run_id).exclude(state__in=Run.TERMINAL).exists():
        raise _still_measured("Wait until it is done, or stop what is left.")
    added = {"techniques": techniques, "seeds": seeds, "shares": shares}
    audit(team=study.team, user=user, action="study.extend", subject=study, run=run.pk,
          **{name: ", ".join(map(str, values)) for name, values in added.items() if values})  # fmt: skip
    study.run, study.spec, study.collection = run, spec.as_dict(), searched
    return study


def _still_measured(hint: str) -> ColdframeError:
    return ColdframeError("The study is still being measured.", code="active", status=409, hint=hint)


def _extended(
    study: Study,
    techniques: Sequence[str],
    seeds: Sequence[int],
    shares: Sequence[float],
    budget_s: float | None,
    collection: str,
) -> StudySpec:
    before = study.spec
    kept = {name: value for name, value in before.items() if name not in ("dataset", "dataset_sha256")}
    given = {
        **kept, "techniques": [*before["techniques"], *techniques], "shares": [*before["shares"], *shares],
        "seeds": [*before["seeds"], *(seed for seed in seeds if seed not in before["seeds"])],
        "budget_s": before["budget_s"] if budget_s is None else budget_s, "collection": collection,
    }  # fmt: skip
    spec = _checked(given, study.dataset_version)
    n_open = sum((study.board.get("n_cells") or {}).get(name) or 0 for name in ("failed", "left_out", "waiting"))
    has_more = any(list(getattr(spec, name)) != list(before[name]) for name in ("techniques", "seeds", "shares"))
    if study.is_done and not has_more and not n_open:
        raise SpecError("The study has all of that already, and nothing in it failed or was left out.",
                        hint="Choose a technique, a seed or a share that is new.", field="techniques")  # fmt: skip
    return spec


@transaction.atomic
def study_rename(*, study: Study, user: Any, name: str) -> Study:
    old, new = study.name, _named(name, "")
    if not new:
        raise SpecError("A study needs a name, got an empty one.", field="name")
    study.name = new
    study.save(update_fields=["name"])
    audit(team=study.team, user=user, action="study.rename", subject=study, **{"from": old})
    return study


@transaction.atomic
def study_archive(*, study: Study, user: Any, is_archived: bool = True) -> Study:
    """Takes a study out of the list, or brings it back. What is at work must be stopped first."""
    if is_archived and study.run is not None and not study.run.is_over:
        raise _still_measured("Stop it first.")
    if Study.objects.filter(pk=study.pk, is_archived=not is_archived).update(is_archived=is_archived):
        audit(team=study.team, user=user, action="study.archive" if is_archived else "study.restore", subject=study)
    study.is_archived = is_archived
    return study


def study_stop(*, study: Study, user: Any) -> str:
    """Stops what is left: `cancelled`, `stopping`, or `too_late`. What is measured stays, and is kept."""
    return run_cancel(run=study.run, user=user) if study.run is not None else "too_late"


@transaction.atomic
def study_go_on(*, study: Study, user: Any) -> Study:
    """Puts a stopped or failed study back in line; it goes on where it was. Raises ColdframeError (409)."""
    run = study.run
    if run is None or not Study.objects.filter(pk=study.pk, run=run).update(run=run):
        raise ColdframeError("There is nothing to go on with.", code="conflict", status=409,
                             hint="Somebody else may have extended the study: look again.")  # fmt: skip
    run_retry(run=run, user=user)
    run.refresh_from_db()
    return study


def study_publish(*, run: Run, out: Path, results: str, compared: Mapping[str, Mapping[str, Any]]) -> Study | None:
    """The board and the entries of what a run left, finished or not; a second call changes nothing.

    None when the study went on without this run.
    """
    study = Study.objects.select_for_update().filter(run=run).first()
    if study is None or study.results == results:
        return study
    about = _json(out / "study.json")
    study.board, study.results = _json(out / "board.json"), results
    study.about = {name: value for name, value in about.items() if name != "spec"}
    plan = RunEvent.objects.filter(run=run, name="plan").order_by("-pk").values_list("data", flat=True).first()
    study.planned = plan or study.planned
    study.save(update_fields=["board", "results", "about", "planned"])
    for path in sorted((out / "cells").glob("*.json")):
        _entry_write(study, _json(path), compared)
    return study


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path.name} of the study cannot be read: {error}.") from error


def _entry_write(study: Study, cell: Mapping[str, Any], compared: Mapping[str, Mapping[str, Any]]) -> None:
    key, (low, high) = str(cell["key"]), cell.get("interval") or (None, None)
    known = study.entries.filter(key=key).first()
    is_same = known is not None and known.summary.get("identity") == cell.get("identity")
    StudyEntry.objects.update_or_create(
        study=study, key=key,
        defaults={
            "technique": cell["technique"], "seed": cell["seed"], "share": float(cell.get("share") or 1),
            "state": cell["state"], "value": cell.get("value"), "low": low, "high": high,
            "summary": {name: value for name, value in cell.items() if name not in NOT_SUMMED_UP},
            "compared": dict(compared.get(key, {})),
            # What was measured otherwise is not what stands in the library.
            **({} if is_same else {"adapter_version": None, "prompt_version": None}),
        },
    )  # fmt: skip
