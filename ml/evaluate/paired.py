"""Two subjects on the same rows: how much better one is, and whether that could be chance.

The difference's 95 % interval and p value come from a paired bootstrap over rows (Koehn 2004; Berg-Kirkpatrick et al.
2012): the same rows are drawn for both, so what is hard for both cancels out. Rows that are right or wrong also get
McNemar's exact test (McNemar 1947; binomial form). Seeded: the same rows give the same answer. Several comparisons at
once are not corrected for; who makes them applies `holm`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ml.errors import DataError
from ml.evaluate.answers import Answered, is_right
from ml.evaluate.bootstrap import N_RESAMPLES, Floats
from ml.evaluate.scorers import Scorer, scorer
from ml.specs.measures import EVALUATION_METRICS

_SEED = 20_121_207


def same_rows(a: Sequence[Answered], b: Sequence[Answered]) -> tuple[list[Answered], list[Answered]]:
    """The rows that both answered, by row number and expected answer, in the first one's order."""
    others = {(row.row, row.expected): row for row in b}
    pairs = [(row, others[key]) for row in a if (key := (row.row, row.expected)) in others]
    return [left for left, _ in pairs], [right for _, right in pairs]


def compare(a: Sequence[Answered], b: Sequence[Answered], *, metrics: Sequence[str]) -> dict[str, Any]:
    """By metric: `a`, `b`, `difference` (a minus b), `low`, `high`, `p`; where rows are right or wrong `mcnemar`.

    Raises DataError when the rows are not the same ones.
    """
    if len(a) != len(b) or any(x.row != y.row or x.expected != y.expected for x, y in zip(a, b, strict=True)):
        raise DataError("The two were not measured on the same rows.", hint="Pair them with same_rows first.")
    if not a:
        raise DataError("The two have no row in common.", hint="Measure both on the same rows.")
    found = {}
    for name in metrics:
        found[name] = difference(scorer(name, a), scorer(name, b), len(a))
        if EVALUATION_METRICS[name].is_right_or_wrong:
            found[name]["mcnemar"] = mcnemar([is_right(x, name) for x in a], [is_right(y, name) for y in b])
    return {"n_rows": len(a), "metrics": found}


def difference(score_a: Scorer, score_b: Scorer, n_rows: int) -> dict[str, Any]:
    """Both values, their difference a - b, its 95 % percentile interval and a two-sided p value."""
    everything = np.ones(n_rows, dtype=np.int64)
    a, b = score_a(everything), score_b(everything)
    known: dict[str, Any] = {"a": a, "b": b, "difference": a - b}
    if n_rows < 2 or not math.isfinite(a - b):
        return {**known, "low": None, "high": None, "p": None}
    draw = np.random.default_rng(_SEED)
    drawn = np.empty(N_RESAMPLES)
    for i in range(N_RESAMPLES):
        weights = np.bincount(draw.integers(n_rows, size=n_rows), minlength=n_rows)
        drawn[i] = score_a(weights) - score_b(weights)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {**known, "low": min(float(low), a - b), "high": max(float(high), a - b), "p": two_sided(drawn)}


def two_sided(drawn: Floats) -> float:
    """p value of no difference, out of drawn differences [R]: twice the share on the rarer side of zero."""
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(drawn) + 1))


def holm(values: Sequence[float]) -> list[float]:
    """p values of several tests at once, adjusted so that the chance of any false alarm stays below the level
    (Holm 1979): the smallest times their number, the next times one less, never below an earlier one."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found, floor = [1.0] * len(values), 0.0
    for rank, place in enumerate(order):
        floor = max(floor, min(1.0, (len(values) - rank) * values[place]))
        found[place] = floor
    return found


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> dict[str, Any]:
    """`only_a` and `only_b` rows right for one alone, and the exact two-sided p value of such a split."""
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    n, few = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, k) for k in range(few + 1))
    p = min(1.0, 2 * math.exp(math.log(tail) - n * math.log(2))) if n else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": p}
