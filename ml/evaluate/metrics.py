"""Metrics over texts and counts. Pure Python: no model, no tensors.

Shares are between 0 and 1. Intervals are two-sided 95 %.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

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
