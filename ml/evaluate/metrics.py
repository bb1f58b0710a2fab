"""Metrics over texts and counts, and which of them decides. No model, no tensors.

Shares are between 0 and 1. Intervals are two-sided 95 %.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ml.evaluate.bootstrap import Floats, Weights, bootstrap_interval

_Z95 = 1.959963984540054


def wilson(n_right: int, n_all: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson 1927); (0, 1) when nothing was counted."""
    if n_all == 0:
        return 0.0, 1.0
    share, z2 = n_right / n_all, _Z95**2
    middle = (share + z2 / (2 * n_all)) / (1 + z2 / n_all)
    half = _Z95 / (1 + z2 / n_all) * math.sqrt(share * (1 - share) / n_all + z2 / (4 * n_all**2))
    low = 0.0 if n_right == 0 else middle - half
    return low, 1.0 if n_right == n_all else middle + half


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Normal 95 % interval of a mean of shares, kept within 0 and 1; (0, 1) for fewer than two values."""
    if len(values) < 2:
        return 0.0, 1.0
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = _Z95 * math.sqrt(variance / len(values))
    return max(0.0, mean - half), min(1.0, mean + half)


def accuracy(expected: Sequence[str], got: Sequence[str]) -> float:
    """Share of places where both agree."""
    return sum(a == b for a, b in zip(expected, got, strict=True)) / max(1, len(expected))


def macro_f1(expected: Sequence[str], got: Sequence[str]) -> float:
    """Mean over the labels that occur on either side of F1 = 2·right / (times expected + times got)."""
    right = Counter(a for a, b in zip(expected, got, strict=True) if a == b)
    n_expected, n_got = Counter(expected), Counter(got)
    labels = sorted(set(n_expected) | set(n_got))
    return sum(2 * right[x] / (n_expected[x] + n_got[x]) for x in labels) / max(1, len(labels))


def macro_f1_interval(expected: Sequence[str], got: Sequence[str]) -> tuple[float, float]:
    """Bootstrap interval of `macro_f1`; a label that a resample lacks on both sides does not count in it."""
    return bootstrap_interval(macro_f1_score(expected, got), len(expected))


def macro_f1_score(expected: Sequence[str], got: Sequence[str]) -> Callable[[Weights], float]:
    """`macro_f1` as a function of how often each row counts."""
    labels = {label: i for i, label in enumerate(sorted({*expected, *got}))}
    wanted = np.array([labels[x] for x in expected], dtype=np.int64)  # [N]
    said = np.array([labels[x] for x in got], dtype=np.int64)  # [N]
    right = wanted == said

    def score(weights: Weights) -> float:
        n_right = np.bincount(wanted[right], weights=weights[right], minlength=len(labels))
        n_seen = np.bincount(wanted, weights=weights, minlength=len(labels))
        n_seen = n_seen + np.bincount(said, weights=weights, minlength=len(labels))
        present = n_seen > 0
        return float((2 * n_right[present] / n_seen[present]).mean())

    return score


def macro_f1_scores(expected: Sequence[str], got: Sequence[str]) -> Callable[[Floats], Floats]:
    """`macro_f1` of many draws at once: weights [N, R] to scores [R]."""
    labels = sorted({*expected, *got})
    right = [i for i, (a, b) in enumerate(zip(expected, got, strict=True)) if a == b]

    def score(weights: Floats) -> Floats:
        n_seen = _by_label(labels, expected, weights) + _by_label(labels, got, weights)  # [L, R]
        n_right = _by_label(labels, [expected[i] for i in right], weights[right])
        f1 = np.divide(2 * n_right, n_seen, out=np.zeros_like(n_seen), where=n_seen > 0)
        found: Floats = f1.sum(axis=0) / np.maximum(1, (n_seen > 0).sum(axis=0))
        return found

    return score


def _by_label(labels: Sequence[str], said: Sequence[str], weights: Floats) -> Floats:
    """Sums [L, R] of the weights [n, R] of the rows that said each label."""
    places = {label: i for i, label in enumerate(labels)}
    found = np.zeros((len(labels), weights.shape[1]))
    if said:
        mine = np.array([places[label] for label in said])
        order = np.argsort(mine, kind="stable")
        present, starts = np.unique(mine[order], return_index=True)
        found[present] = np.add.reduceat(weights[order], starts, axis=0)
    return found


def normalized(text: str) -> str:
    """Case, runs of white space and punctuation at word edges do not count."""
    words = (word.strip(".,;:!?\"'()[]{}«»“”‘’") for word in text.casefold().split())
    return " ".join(word for word in words if word)


def exact_match(expected: str, got: str) -> bool:
    return normalized(expected) == normalized(got)


def token_f1(expected: str, got: str) -> float:
    """F1 over words as multisets (SQuAD, arXiv 1606.05250), on normalized texts; two empty texts agree."""
    a, b = Counter(normalized(expected).split()), Counter(normalized(got).split())
    if not a or not b:
        return float(a == b)
    return 2 * (a & b).total() / (a.total() + b.total())


def perplexity(nll: float) -> float:
    """exp of a mean negative log likelihood; infinite where that overflows."""
    return math.exp(nll) if nll < 700 else math.inf


def token_mean(values: Sequence[float], n_tokens: Sequence[int]) -> float:
    """Mean over all tokens, given each row's mean and its number of tokens; 0 for no tokens."""
    total = sum(value * n for value, n in zip(values, n_tokens, strict=True))
    return total / max(1, sum(n_tokens))


def primary_metric(metrics: Mapping[str, float]) -> str:
    """The validation metric that decides which of several versions is best: accuracy, or the loss of free answers."""
    return "accuracy" if "accuracy" in metrics else "loss"


def better(new: Mapping[str, float], old: Mapping[str, float] | None) -> bool:
    """Whether `new` is strictly better than `old`: higher accuracy, or as accurate with a lower loss; without
    accuracy, a lower loss. Anything is better than None; a value that is missing or no number is the worst."""
    if old is None:
        return True
    return _worth(new) > _worth(old)


def _worth(metrics: Mapping[str, float]) -> tuple[float, float]:
    accuracy, loss = metrics.get("accuracy"), metrics.get("loss")
    return (
        -math.inf if accuracy is None or math.isnan(accuracy) else accuracy,
        -math.inf if loss is None or math.isnan(loss) else -loss,
    )
