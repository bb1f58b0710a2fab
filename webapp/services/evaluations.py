"""Writes on evaluations: asked for, published, priced.

Guarantees: the evaluation, its run and the doorbell are one transaction; everything that can be known beforehand is
checked before anything is written (names, rows, metrics that do not fit, a prompt that cannot take this data set's
rows); versions are pinned when it is asked for, so that an alias moved meanwhile changes nothing. Publishing runs
inside the fenced transaction of jobs/publish.py; figures are written once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction

from ml.errors import ColdframeError, NotFoundError, SpecError
from ml.specs.measures import check_measures, has_number
from webapp.models import DatasetVersion, Evaluation, EvaluationComparison, EvaluationRow, PromptVersion, Run, Team
from webapp.selectors.dataset_rows import SPLITS, rows_of
from webapp.selectors.evaluation_subjects import Subject, request_for_row, subject_named
from webapp.selectors.metrics import with_headline
from webapp.selectors.targets import base_of
from webapp.services.prompt_content import clean_check
from webapp.services.runs import run_submit
from webapp.services.teams import audit
from webapp.services.version_checks import labels_differ_check

MOST_ROWS = 10_000
DEFAULT_ROWS, DEFAULT_TOKENS, SEED = 200, 128, 17
BATCH = 1000


def _whole(name: str, value: Any, low: int, high: int) -> int:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not low <= value <= high:
        raise SpecError(f"{name} must be a whole number from {low:,} to {high:,}, got {value!r:.60}.", field=name)
    return int(value)


def _rows(version: DatasetVersion, split: str, n_rows: Any) -> int:
    """How many rows are measured: those asked for, or all there are."""
    if split not in SPLITS:
        raise SpecError(f"A split is {', '.join(SPLITS)}, got {str(split)[:40]!r}.", field="split")
    n_there = int(version.splits.get(split) or 0)
    if not n_there:
        raise SpecError(f"There are no rows in the {split} split of {version}.", hint="Choose another split.",
                        field="split")  # fmt: skip
    return min(_whole("rows", n_rows, 1, MOST_ROWS), n_there)


def _spec(
    subject: Subject, version: DatasetVersion, *, split: str, n_rows: int, metrics: Sequence[str], max_tokens: int
) -> dict[str, Any]:
    rows = list(islice(rows_of(version, split), n_rows))
    if not rows:
        raise NotFoundError(f"The rows of {version} are gone from the storage.", field="dataset")
    has_numbers = version.task != "classification" and all(has_number(row["completion"]) for row in rows)
    found = check_measures(metrics, task=version.task, is_scored=subject.is_scored, has_numbers=has_numbers)
    spec = {"metrics": found, "is_scored": subject.is_scored, "max_tokens": max_tokens, "seed": SEED}
    request_for_row(subject, version, rows[0], spec)
    return spec


@transaction.atomic
def evaluation_submit(
    *, team: Team, user: Any, model: str, dataset_version_id: int, prompt: str = "", collection: str = "",
    split: str = "test", n_rows: Any = DEFAULT_ROWS, metrics: Sequence[str] = (), max_tokens: Any = DEFAULT_TOKENS,
) -> Evaluation:  # fmt: skip
    """Asks for a measurement. Raises NotFoundError or SpecError with `field` set."""
    version = DatasetVersion.objects.for_team(team).select_related("dataset").filter(pk=dataset_version_id).first()
    if version is None:
        raise NotFoundError(f"No data set version {dataset_version_id} in this team.", field="dataset")
    labels_differ_check(version, "measure")
    subject = subject_named(team=team, model=model, prompt=prompt, collection=collection)
    n_rows = _rows(version, split, n_rows)
    if subject.prompt is not None:
        clean_check(prompt=subject.prompt, dataset=version, split=split)
    max_tokens = _whole("max_tokens", max_tokens, 1, settings.ENGINE_LENGTH)
    spec = _spec(subject, version, split=split, n_rows=n_rows, metrics=metrics, max_tokens=max_tokens)
    run = run_submit(
        team=team, user=user, kind=Run.Kind.EVALUATE, title=subject.name, dataset_version=version,
        spec={**spec, "kind": "evaluate", "subject": subject.name, "dataset": str(version), "split": split,
              "rows": n_rows},
    )  # fmt: skip
    evaluation = Evaluation.objects.create(
        team=team, created_by=user, subject=subject.name, adapter_version=subject.adapter,
        prompt_version=subject.prompt, collection=subject.collection,
        collection_name=subject.collection.name if subject.collection else "", base_name=subject.target.base,
        dataset_version=version, split=split, n_rows=n_rows, spec=spec, run=run, main_metric=spec["metrics"][0],
    )  # fmt: skip
    audit(team=team, user=user, action="evaluation.submit", subject=evaluation.name, run=run.pk)
    return evaluation


def evaluation_publish(
    *, run: Run, out: Path, results: str, comparisons: Mapping[int, Mapping[str, Any]]
) -> Evaluation:
    """The figures, an index of the rows, and the comparisons; a second call changes nothing."""
    evaluation = Evaluation.objects.select_for_update().select_related("dataset_version").get(run=run)
    if evaluation.is_done:
        return evaluation
    evaluation_fill(evaluation=evaluation, folder=out, results=results, comparisons=comparisons)
    return evaluation


def evaluation_fill(
    *, evaluation: Evaluation, folder: Path, results: str, comparisons: Mapping[int, Mapping[str, Any]]
) -> None:
    """Writes what `folder` says: summary.json, and the rows of results.jsonl, which is in the storage by now.
    `comparisons`: by the id of another evaluation on the same rows, its figures minus this one's."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for name in ("main_metric", "metrics", "intervals", "figures", "versions"):
        setattr(evaluation, name, summary[name])
    # Beside the figures, so that a list can be sorted by it.
    evaluation.figures["headline"] = summary["metrics"][summary["main_metric"]]
    evaluation.results, evaluation.n_rows = results, int(summary["figures"]["n_rows"])
    evaluation.save(update_fields=["main_metric", "metrics", "intervals", "figures", "versions", "results", "n_rows"])
    rows = _index(evaluation, folder / "results.jsonl")
    while batch := list(islice(rows, BATCH)):
        EvaluationRow.objects.bulk_create(batch)
    EvaluationComparison.objects.bulk_create(
        EvaluationComparison(team=evaluation.team, created_by=evaluation.created_by, a_id=pk, b=evaluation,
                             n_rows=found["n_rows"], metrics=found["metrics"])
        for pk, found in comparisons.items()
    )  # fmt: skip
    _note_on_prompt(evaluation)


def _note_on_prompt(evaluation: Evaluation) -> None:
    """A prompt has no training run that measures it: its newest evaluation by itself on test rows is its figure. One on
    another base model than its own is not."""
    version = evaluation.prompt_version
    if version is None or evaluation.adapter_version_id or evaluation.split != "test":
        return
    if evaluation.base_name != base_of(version):
        return
    if version.dataset_version_id not in (None, evaluation.dataset_version_id):
        return
    block = {**evaluation.metrics, "intervals": evaluation.intervals, "n_rows": evaluation.n_rows}
    PromptVersion.objects.filter(pk=version.pk).update(metrics=with_headline({"test": block}))


def _index(evaluation: Evaluation, path: Path) -> Iterator[EvaluationRow]:
    places = {label: place for place, label in enumerate(evaluation.dataset_version.labels or [])}
    offset = 0
    with path.open("rb") as file:
        for line in file:
            row = json.loads(line)
            yield EvaluationRow(
                evaluation=evaluation, place=row["place"], row=row["row"], is_right=row["is_right"],
                score=row["score"], is_error="error" in row, offset=offset, n_bytes=len(line),
                expected_at=places.get(row["expected"]) if places else None,
                got_at=places.get(row["got"], -1) if places else None,
            )  # fmt: skip
            offset += len(line)


def _price(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or not 0 <= number <= 1e6:
        raise SpecError(f"A price is a number from 0 to 1,000,000, got {value!r:.40}.", field=name)
    return number


@transaction.atomic
def prices_set(*, team: Team, user: Any, currency: str, tokens_in: Any, tokens_out: Any) -> dict[str, Any]:
    """What a million tokens cost the team, read and written. Raises SpecError with `field` set."""
    currency = str(currency or "").strip().upper()
    if not (currency.isascii() and currency.isalpha() and len(currency) == 3):
        raise SpecError(f"A currency has three letters, got {currency[:20]!r}.", hint="For example EUR.",
                        field="currency")  # fmt: skip
    prices = {"currency": currency, "tokens_in": _price("tokens_in", tokens_in),
              "tokens_out": _price("tokens_out", tokens_out)}  # fmt: skip
    if not Team.objects.filter(pk=team.pk).update(prices=prices):
        raise ColdframeError("The team is gone.", status=409, code="conflict")
    team.prices = prices
    audit(team=team, user=user, action="team.prices", subject=team, **prices)
    return prices
