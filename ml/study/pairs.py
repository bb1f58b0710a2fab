"""Any two techniques of a study on the same rows: how far apart they are, and whether that could be chance.

The difference's interval and p value come from the draws over rows and seeds that all techniques share (ml.study.draws;
p as in ml.evaluate.paired). Where the metric is a mean of rows the p value is that of the sign test on the rows, if
that is larger: when few rows differ, hardly any draw misses them all, and the bootstrap alone would be too sure.

Several comparisons at once are corrected by Holm's method: over all pairs, but those of a group's best with all that
rank below it over themselves alone, since they decide who is tied and what to take, and a correction for comparisons
that nobody asks about would only call more things a tie. `is_certain`: the corrected p value is below 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.evaluate.answers import Answered, is_right
from ml.evaluate.bootstrap import Floats
from ml.evaluate.paired import holm, two_sided
from ml.study.draws import Standing, flipped

LEVEL = 0.05
MOST_ROWS_NEEDED = 10_000_000
_Z = 1.959963984540054 + 0.8416212335729143
"""Normal quantiles of a two-sided 5 % test and of 80 % power."""


@dataclass(frozen=True, kw_only=True)
class Side:
    name: str
    standing: Standing
    first: Sequence[Answered]
    """Rows of the first seed."""


def compare_all(sides: Sequence[Side], *, metric: str, n_rows: int) -> list[dict[str, Any]]:
    """Every pair, the one that ranks higher first; `sides` best first. `only_a` and `only_b` are the rows that one
    alone has right, by the first seeds."""
    right = {side.name: np.array([is_right(row, metric) for row in side.first]) for side in sides}
    pairs = [(a, b) for i, a in enumerate(sides) for b in sides[i + 1 :]]
    found = differences([(a.standing, b.standing) for a, b in pairs], n_rows)
    return [
        {"a": a.name, "b": b.name, **one, "only_a": int((right[a.name] & ~right[b.name]).sum()),
         "only_b": int((right[b.name] & ~right[a.name]).sum())}
        for (a, b), one in zip(pairs, found, strict=True)
    ]  # fmt: skip


def decide(pairs: Sequence[dict[str, Any]], head: str) -> str | None:
    """Corrects the comparisons of `head`, a group's best, over themselves. The first that is below it for certain, in
    the order of the pairs; None when there is none."""
    family = [pair for pair in pairs if pair["a"] == head]
    for pair, adjusted in zip(family, holm([pair["p"] for pair in family]), strict=True):
        pair["p_adjusted"], pair["is_certain"] = adjusted, adjusted < LEVEL
    return next((pair["b"] for pair in family if pair["is_certain"]), None)


def differences(pairs: Sequence[tuple[Standing, Standing]], n_rows: int) -> list[dict[str, Any]]:
    """Of each pair: difference (the first one minus the second), low, high, p, p_adjusted, is_certain, rows_needed."""
    if not pairs:
        return []
    found = [_difference(a, b, n_rows) for a, b in pairs]
    if n_rows >= 2 and pairs[0][0].scores.size:
        signs = flipped(np.stack([a.scores - b.scores for a, b in pairs]))
        for one, p in zip(found, signs, strict=True):
            one["p"] = max(one["p"], p)
    for one, adjusted in zip(found, holm([one["p"] for one in found]), strict=True):
        one["p_adjusted"], one["is_certain"] = adjusted, adjusted < LEVEL
    return found


def _difference(a: Standing, b: Standing, n_rows: int) -> dict[str, Any]:
    difference = round(a.value - b.value, 12)
    if n_rows < 2:
        return {"difference": difference, "low": -1.0, "high": 1.0, "p": 1.0, "rows_needed": None}
    drawn = np.round(a.draws - b.draws, 12)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {
        "difference": difference, "low": max(-1.0, min(float(low), difference)),
        "high": min(1.0, max(float(high), difference)), "p": two_sided(drawn),
        "rows_needed": rows_needed(difference, np.round(a.fixed - b.fixed, 12), n_rows),
    }  # fmt: skip


def rows_needed(difference: float, drawn: Floats, n_rows: int) -> int | None:
    """Test rows at which a two-sided 5 % test would tell these same trained models apart with 80 % power, if the
    difference is what was observed; None where it is none, or more than ten million rows would be needed.

    `drawn`: the difference on draws of `n_rows` rows, whose variance shrinks with the number of rows.
    """
    if not difference:
        return None
    needed = math.ceil(_Z**2 * n_rows * float(drawn.var()) / difference**2)
    return max(2, needed) if needed <= MOST_ROWS_NEEDED else None
