"""A report: metrics with intervals on some rows of one split, and the best and worst rows to look at.

Classification: the label with the highest log probability is the answer. Generation: greedy answers against the
expected text, and the loss of the expected text. The rows are the split's first ones, so two subjects are always
measured on the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ml.data.rows import Dataset, Row
from ml.evaluate import metrics
from ml.objectives import Check, Objective

N_SAMPLES = 5
_TEXT_LIMIT = 1200


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One measured row."""

    row: Row
    got: str
    correct: bool
    loss: float
    """Mean negative log likelihood of the expected answer's tokens, in nats."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    n_rows: int
    samples: list[dict[str, Any]] = field(default_factory=list)
    """The rows with the lowest loss, then those with the highest."""

    def as_dict(self) -> dict[str, Any]:
        return {"metrics": self.metrics, "intervals": {k: list(v) for k, v in self.intervals.items()},
                "n_rows": self.n_rows, "samples": self.samples}  # fmt: skip


@torch.no_grad()
def measure(
    objective: Objective, model: Any, dataset: Dataset, split: str, *, n_rows: int, check: Check = lambda: None
) -> Report:
    """Measures `model` on the first `n_rows` rows of `split`. `check` is called between batches and may raise."""
    rows = dataset.splits[split][:n_rows]
    model.eval()
    if dataset.task == "classification":
        return _classification_report(_classify(objective, model, dataset, rows, check))
    return _generation_report(_answer(objective, model, rows, check))


def _classify(
    objective: Objective, model: Any, dataset: Dataset, rows: Sequence[Row], check: Check
) -> list[Outcome]:
    labels, lengths, outcomes = dataset.labels, objective.label_lengths(), []
    for row, scores in zip(rows, objective.label_scores(model, rows, check), strict=True):
        right = labels.index(row.completion)
        got = labels[max(range(len(labels)), key=scores.__getitem__)]
        loss = -scores[right] / lengths[right]
        outcomes.append(Outcome(row=row, got=got, correct=got == row.completion, loss=loss))
    return outcomes


def _answer(objective: Objective, model: Any, rows: Sequence[Row], check: Check) -> list[Outcome]:
    return [
        Outcome(row=row, got=got, correct=metrics.exact_match(row.completion, got), loss=loss)
        for row, (got, loss) in zip(rows, objective.answers(model, rows, check), strict=True)
    ]


def _classification_report(outcomes: list[Outcome]) -> Report:
    expected, got = [o.row.completion for o in outcomes], [o.got for o in outcomes]
    n_right = sum(o.correct for o in outcomes)
    values = {
        "accuracy": metrics.accuracy(expected, got),
        "macro_f1": metrics.macro_f1(expected, got),
        "loss": _mean([o.loss for o in outcomes]),
    }
    intervals = {"accuracy": metrics.wilson(n_right, len(outcomes))}
    return Report(metrics=values, intervals=intervals, n_rows=len(outcomes), samples=_samples(outcomes))


def _generation_report(outcomes: list[Outcome]) -> Report:
    overlaps = [metrics.token_f1(o.row.completion, o.got) for o in outcomes]
    loss = _mean([o.loss for o in outcomes])
    n_right = sum(o.correct for o in outcomes)
    values = {
        "exact_match": n_right / max(1, len(outcomes)),
        "token_f1": _mean(overlaps),
        "loss": loss,
        "perplexity": metrics.perplexity(loss),
    }
    intervals = {
        "exact_match": metrics.wilson(n_right, len(outcomes)),
        "token_f1": metrics.mean_interval(overlaps),
    }
    return Report(metrics=values, intervals=intervals, n_rows=len(outcomes), samples=_samples(outcomes))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def _samples(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    ranked = sorted(outcomes, key=lambda o: (not o.correct, o.loss))
    chosen = ranked if len(ranked) <= 2 * N_SAMPLES else ranked[:N_SAMPLES] + ranked[-N_SAMPLES:]
    return [
        {
            "row": o.row.number,
            "prompt": o.row.messages[-1]["content"][:_TEXT_LIMIT],
            "expected": o.row.completion[:_TEXT_LIMIT],
            "got": o.got[:_TEXT_LIMIT],
            "correct": o.correct,
            "loss": o.loss,
        }
        for o in chosen
    ]
