"""A report: metrics with intervals on some rows of one split, and the best and worst rows to look at.

Classification: the label with the highest log probability is the answer. Generation: greedy answers against the
expected text, and the loss of the expected text. The rows are the split's first ones, so two subjects are always
measured on the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ml.data.chat import completion_ids, example_ids, stop_ids
from ml.data.rows import Dataset, Row, encode_rows
from ml.evaluate import metrics
from ml.evaluate.scoring import generate_greedy, n_rows_at_once, score_labels
from ml.forward import base_of, completion_nll

N_SAMPLES = 5
_TEXT_LIMIT = 1200
_MOST_NEW_TOKENS = 256
Check = Callable[[], None]


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
    model: Any, tokenizer: Any, dataset: Dataset, split: str, *, n_rows: int, max_length: int, at_once: int,
    check: Check = lambda: None,
) -> Report:  # fmt: skip
    """Measures `model` on the first `n_rows` rows of `split`. `check` is called between batches and may raise."""
    rows = dataset.splits[split][:n_rows]
    model.eval()
    if dataset.task == "classification":
        outcomes = _classify(model, tokenizer, dataset.labels, rows, max_length, at_once, check)
        return _classification_report(outcomes)
    outcomes = _answer(model, tokenizer, rows, max_length, at_once, check)
    return _generation_report(outcomes)


def _batches(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (order[i : i + size] for i in range(0, len(order), size))


def _classify(
    model: Any, tokenizer: Any, labels: list[str], rows: Sequence[Row], max_length: int, at_once: int, check: Check
) -> list[Outcome]:
    label_ids = [completion_ids(tokenizer, label) for label in labels]
    longest = max(labels, key=lambda label: len(label_ids[labels.index(label)]))
    examples = [example_ids(tokenizer, row.messages, longest, max_length) for row in rows]
    prompts = [example.ids[: example.n_prompt] for example in examples]
    n_positions = 1 + sum(len(ids) - 1 for ids in label_ids)
    outcomes: dict[int, Outcome] = {}
    order = sorted(range(len(rows)), key=lambda i: len(prompts[i]))
    for batch in _batches(order, n_rows_at_once(model, n_positions, at_once)):
        check()
        scores = score_labels(model, [prompts[i] for i in batch], label_ids)  # [B, L]
        for i, row_scores in zip(batch, scores.tolist(), strict=True):
            right = labels.index(rows[i].completion)
            got = labels[max(range(len(labels)), key=row_scores.__getitem__)]
            loss = -row_scores[right] / len(label_ids[right])
            outcomes[i] = Outcome(row=rows[i], got=got, correct=got == rows[i].completion, loss=loss)
    return [outcomes[i] for i in range(len(rows))]


def _answer(
    model: Any, tokenizer: Any, rows: Sequence[Row], max_length: int, at_once: int, check: Check
) -> list[Outcome]:
    examples = encode_rows(rows, tokenizer, max_length)
    longest = max((len(e.ids) - e.n_prompt for e in examples), default=0)
    max_tokens = min(_MOST_NEW_TOKENS, longest + longest // 2)
    stop = stop_ids(tokenizer, base_of(model).generation_config)
    outcomes: dict[int, Outcome] = {}
    for batch in _batches(sorted(range(len(rows)), key=lambda i: len(examples[i].ids)), at_once):
        check()
        chosen = [examples[i] for i in batch]
        nll, owner = completion_nll(model, chosen)
        loss = nll.new_zeros(len(batch)).index_add_(0, owner, nll) / owner.bincount(minlength=len(batch))
        prompts = [e.ids[: e.n_prompt] for e in chosen]
        answers = generate_greedy(model, prompts, max_tokens=max_tokens, stop=stop, check=check)
        for i, answer, row_loss in zip(batch, answers, loss.tolist(), strict=True):
            got = tokenizer.decode(answer, skip_special_tokens=True)
            correct = metrics.exact_match(rows[i].completion, got)
            outcomes[i] = Outcome(row=rows[i], got=got, correct=correct, loss=row_loss)
    return [outcomes[i] for i in range(len(rows))]


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
