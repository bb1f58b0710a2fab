"""A report: metrics with intervals on some rows of one split, and the best and worst rows to look at.

Classification: the label with the highest log probability is the answer; `loss` is the mean over rows of the right
label's NLL a prediction. Generation: greedy answers against the expected text; `loss` is the NLL of all expected tokens
÷ their number, the quantity that training lowers, and `perplexity` its exponential: long answers weigh more than short
ones, and batches do not matter. All other metrics are shares of 1. The rows are the split's first ones, so two subjects
are always measured on the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ml.data.rows import Dataset, Row
from ml.evaluate import metrics, overlap
from ml.evaluate.answers import nearest
from ml.evaluate.scoring import is_cheap
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
    n_tokens: int = 1
    """How many predictions `loss` is the mean of."""


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
    objective: Objective, model: Any, dataset: Dataset, split: str, *, n_rows: int, check: Check = lambda: None,
    writes: bool = True,
) -> Report:  # fmt: skip
    """Measures `model` on the first `n_rows` rows of `split`. `check` is called between batches and may raise.

    Without `writes` free answers are not written, and labels not scored where that is dear: loss and perplexity are all
    that is found of them.
    """
    rows = dataset.splits[split][:n_rows]
    model.eval()
    if dataset.task == "classification" and (writes or is_cheap(objective.label_lengths())):
        return _classification_report(_classify(objective, model, dataset, rows, check))
    if not writes:
        return _likelihood_report(objective, model, rows, check)
    return _generation_report(_answer(objective, model, rows, check))


def _classify(objective: Objective, model: Any, dataset: Dataset, rows: Sequence[Row], check: Check) -> list[Outcome]:
    labels, lengths, outcomes = dataset.labels, objective.label_lengths(), []
    for row, scores in zip(rows, objective.label_scores(model, rows, check), strict=True):
        right = labels.index(row.completion)
        got = labels[max(range(len(labels)), key=scores.__getitem__)]
        loss = -scores[right] / lengths[right]
        outcomes.append(Outcome(row=row, got=got, correct=got == row.completion, loss=loss))
    return outcomes


def _answer(objective: Objective, model: Any, rows: Sequence[Row], check: Check) -> list[Outcome]:
    lengths = [item.n_targets for item in objective.encode(rows)]
    answers = objective.answers(model, rows, check)
    return [
        Outcome(row=row, got=got, correct=metrics.exact_match(_wanted(row, got), got), loss=loss, n_tokens=n)
        for row, (got, loss), n in zip(rows, answers, lengths, strict=True)
    ]


def _wanted(row: Row, got: str) -> str:
    """Of a row's right answers the one that the given one comes nearest to."""
    return nearest(row.answers or (row.completion,), got)


def _classification_report(outcomes: list[Outcome]) -> Report:
    expected, got = [o.row.completion for o in outcomes], [o.got for o in outcomes]
    n_right = sum(o.correct for o in outcomes)
    values = {
        "accuracy": metrics.accuracy(expected, got),
        "macro_f1": metrics.macro_f1(expected, got),
        "loss": _mean([o.loss for o in outcomes]),
    }
    intervals = {
        "accuracy": metrics.wilson(n_right, len(outcomes)),
        "macro_f1": metrics.macro_f1_interval(expected, got),
    }
    return Report(metrics=values, intervals=intervals, n_rows=len(outcomes), samples=_samples(outcomes))


def _generation_report(outcomes: list[Outcome]) -> Report:
    expected, got = [_wanted(o.row, o.got) for o in outcomes], [o.got for o in outcomes]
    common = [metrics.token_f1(a, b) for a, b in zip(expected, got, strict=True)]
    loss = metrics.token_mean([o.loss for o in outcomes], [o.n_tokens for o in outcomes])
    n_right = sum(o.correct for o in outcomes)
    scored = {
        "exact_match": (n_right / max(1, len(outcomes)), metrics.wilson(n_right, len(outcomes))),
        "token_f1": (_mean(common), metrics.mean_interval(common)),
        "rouge_l": overlap.rouge_l(expected, got),
        "bleu": overlap.bleu(expected, got),
        "chrf": overlap.chrf(expected, got),
    }
    values = {name: value for name, (value, _) in scored.items()}
    values |= {"loss": loss, "perplexity": metrics.perplexity(loss)}
    intervals = {name: interval for name, (_, interval) in scored.items()}
    return Report(metrics=values, intervals=intervals, n_rows=len(outcomes), samples=_samples(outcomes))


def _likelihood_report(objective: Objective, model: Any, rows: Sequence[Row], check: Check) -> Report:
    lengths = [item.n_targets for item in objective.encode(rows)]
    losses = [loss for _, loss in objective.answers(model, rows, check, writes=False)]
    loss = metrics.token_mean(losses, lengths)
    return Report(metrics={"loss": loss, "perplexity": metrics.perplexity(loss)}, intervals={}, n_rows=len(rows))


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
