"""What an evaluation's child is given, and how its results become figures: the Django side of jobs/evaluate.py.

Guarantees: the requests are made of pinned versions by the code that chat and API use, so that what is measured is what
is served; doing it again gives the same requests. The child gets Redis' address and no other secret.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from django.conf import settings

from ml.errors import ArtifactError, NotFoundError
from ml.evaluate.answers import Answered, kept_answers
from ml.evaluate.paired import compare, same_rows
from webapp.models import Evaluation, Run

MOST_COMPARED = 40
"""Evaluations of the same rows that a new one is compared with, the newest first."""


def extra_env() -> dict[str, str]:
    return {"REDIS_URL": str(settings.REDIS_URL)}


def command(run: Run, folder: Path) -> list[str]:
    """Writes spec.json and requests.jsonl; returns the command line. Raises ColdframeError when something is gone."""
    evaluation = _of(run)
    version = evaluation.dataset_version
    if evaluation.collection_name and evaluation.collection is None:
        raise NotFoundError(f"The collection {evaluation.collection_name} was deleted.", hint="Evaluate with another.")
    spec = {
        **evaluation.spec, "task": version.task, "labels": version.labels or [], "subject": evaluation.name,
        "removes_markers": bool(evaluation.collection_name),
    }  # fmt: skip
    _write(folder / "requests.jsonl", (json.dumps(line, ensure_ascii=False) for line in requests_of(evaluation)))
    _write(folder / "spec.json", [json.dumps(spec, ensure_ascii=False, indent=1)])
    return [sys.executable, "-m", "jobs.evaluate", "--workdir", str(folder)]


def _of(run: Run) -> Evaluation:
    found = Evaluation.objects.select_related(
        "dataset_version", "adapter_version__adapter", "prompt_version__prompt", "collection", "team"
    ).filter(run=run).first()  # fmt: skip
    if found is None:
        raise NotFoundError(f"The evaluation of run {run.pk} is gone.")
    return found


def _write(path: Path, lines: Any) -> None:
    draft = path.with_name(f".{path.name}")
    with draft.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
    draft.replace(path)


def requests_of(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """One line a row: place, row, question, expected, and the request without its id."""
    from webapp.selectors.dataset_rows import rows_of
    from webapp.selectors.evaluation_subjects import asked_about, request_of

    for place, row in enumerate(islice(rows_of(evaluation.dataset_version, evaluation.split), evaluation.n_rows)):
        request = asdict(request_of(evaluation, row))
        del request["id"]
        yield {
            "place": place, "row": row["row"], "question": asked_about(row), "expected": row["completion"],
            "request": request, **kept_answers(row.get("answers") or ()),
        }  # fmt: skip


def answered_in(folder: Path) -> list[Answered]:
    """The answered rows of a results folder."""
    try:
        with (folder / "results.jsonl").open(encoding="utf-8") as file:
            return [Answered.from_dict(json.loads(line)) for line in file]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"results.jsonl of an evaluation cannot be read: {error}.") from error


def prepare_evaluation(run: Run, out: Path) -> tuple[str, dict[str, Any]]:
    """Where the results are kept, and what the publishing service is given: the comparisons with others."""
    from jobs.publish import sha256_of

    results = sha256_of(out / "results.jsonl")
    return f"evaluations/{results}", {"results": results, "comparisons": comparisons(_of(run), out)}


def comparisons(evaluation: Evaluation, out: Path) -> dict[int, dict[str, Any]]:
    """By the id of each older evaluation on the same rows of the same data: its figures minus the new one's."""
    from webapp import storage

    others = Evaluation.objects.filter(
        team=evaluation.team, dataset_version=evaluation.dataset_version, split=evaluation.split
    ).exclude(results="").exclude(pk=evaluation.pk)  # fmt: skip
    mine, found = answered_in(out), {}
    for other in others.order_by("-pk")[:MOST_COMPARED]:
        theirs, ours = same_rows(answered_in(storage.path_of(other.storage_key)), mine)
        shared = [name for name in evaluation.spec["metrics"] if name in other.metrics]
        if ours and shared:
            found[other.pk] = compare(theirs, ours, metrics=shared)
    return found
