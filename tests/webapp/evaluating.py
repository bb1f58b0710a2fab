"""Evaluations for web tests: a small data set in the storage, and answers published without an engine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from jobs.evaluate_sum import write_results
from jobs.evaluation import prepare_evaluation
from webapp import storage
from webapp.models import Dataset, DatasetVersion, Evaluation, Run, Team
from webapp.services.evaluations import evaluation_publish, evaluation_submit

LABELS = ["billing", "moving", "outage"]
N_ROWS = 12


def data_version(team: Team, folder: Path, *, task: str = "classification", name: str = "tickets") -> DatasetVersion:
    """A data set version whose test split has `N_ROWS` rows; the labels take turns."""
    folder = folder / name
    folder.mkdir(parents=True)
    rows = [
        {"row": n, "messages": [{"role": "system", "content": "Name the queue."},
                                {"role": "user", "content": f"Message: ticket number {n}"}],
         "completion": LABELS[n % 3] if task == "classification" else f"#### {n}"}
        for n in range(1, N_ROWS + 3)
    ]  # fmt: skip
    splits = {"train": rows[:2], "validation": [], "test": rows[2:]}
    for split, chosen in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    sha256 = hashlib.sha256(f"{name}{task}".encode()).hexdigest()
    storage.put_folder(folder, f"datasets/{sha256}")
    dataset = Dataset.objects.create(team=team, name=name)
    return DatasetVersion.objects.create(
        team=team, dataset=dataset, number=1, sha256=sha256, task=task,
        labels=LABELS if task == "classification" else None, splits={k: len(v) for k, v in splits.items()},
        mapping={"format": "columns", "prompt": "Message: {text}", "system": "Name the queue."},
    )  # fmt: skip


def submitted(team: Team, user: Any, version: DatasetVersion, **given: Any) -> Evaluation:
    return evaluation_submit(
        team=team, user=user, **{"model": "base", "dataset_version_id": version.pk, **given}
    )  # fmt: skip


def published(evaluation: Evaluation, folder: Path, *, n_right: int = N_ROWS) -> Evaluation:
    """As the publishing job leaves it: the first `n_right` rows right, the others one label off, the last not
    answered when it is wrong."""
    labels = evaluation.dataset_version.labels or []
    answers = []
    for place in range(evaluation.n_rows):
        row, is_right = place + 3, place < n_right
        expected = labels[row % 3] if labels else f"#### {row}"
        wrong = labels[(row + 1) % 3] if labels else "I do not know"
        line: dict[str, Any] = {"place": place, "row": row, "question": f"Message: ticket number {row}",
                                "expected": expected, "got": expected if is_right else wrong, "tokens_in": 20,
                                "tokens_out": 4, "tokens_prefix": 0, "latency_ms": 30.0}  # fmt: skip
        if labels:
            line["scores"] = [0.0 if label == line["got"] else -2.0 for label in labels]
        else:
            line |= {"nll": 2.0, "n_tokens": 2}
        if place == evaluation.n_rows - 1 and not is_right:
            line |= {"got": "", "error": {"code": "context_too_long", "message": "too long"}}
        answers.append(line)
    spec = {**evaluation.spec, "labels": labels}
    out = folder / f"out{evaluation.pk}"
    write_results(out, answers, spec, seconds=3)
    run = evaluation.run
    assert run is not None
    key, values = prepare_evaluation(run, out)
    storage.put_folder(out, key)
    Run.objects.filter(pk=run.pk).update(state=Run.State.SUCCEEDED)
    return evaluation_publish(run=run, out=out, **values)
