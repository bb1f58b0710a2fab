"""From answered rows to an evaluation's figures: metrics with intervals, confusion matrix, calibration, costs.

Intervals are two-sided 95 %: Wilson's for shares of right rows and wherever all rows have 0 or all have 1, where a
bootstrap degenerates; percentile bootstrap over rows for all others. Rows that could not be answered count as wrong,
never as absent.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ml.evaluate.answers import Answered, is_right
from ml.evaluate.bootstrap import bootstrap_interval
from ml.evaluate.metrics import wilson
from ml.evaluate.scorers import N_BINS, ROW_MEANS, calibration, scorer
from ml.specs.measures import EVALUATION_METRICS

MOST_CELLS = 100_000


def summarize(rows: Sequence[Answered], *, metrics: Sequence[str], labels: Sequence[str] = ()) -> dict[str, Any]:
    """`metrics` and `intervals` by name, `n_rows`, `n_right`; for labels `confusion` and, where scored, `bins`."""
    main = metrics[0]
    found: dict[str, Any] = {"metrics": {}, "intervals": {}, "n_rows": len(rows)}
    for name in metrics:
        value, interval = measured(name, rows)
        found["metrics"][name] = value
        if interval is not None:
            found["intervals"][name] = list(interval)
    found["n_right"] = sum(is_right(row, main) for row in rows)
    if labels:
        found["confusion"] = confusion(rows, labels)
    if "ece" in metrics:
        found["bins"] = bins(rows)
    return found


def measured(name: str, rows: Sequence[Answered]) -> tuple[float, tuple[float, float] | None]:
    """A metric's value and its interval; None where rows are too few to say."""
    score = scorer(name, rows)
    value = score(np.ones(len(rows), dtype=np.int64))
    metric = EVALUATION_METRICS[name]
    if metric.is_right_or_wrong:
        return value, wilson(round(value * len(rows)), len(rows))
    if len(rows) < 2 or not math.isfinite(value):
        return value, (0.0, 1.0) if metric.is_share else None
    if name in ROW_MEANS and value in (0, 1):  # all rows are alike: no draw differs
        return value, wilson(round(value * len(rows)), len(rows))
    return value, bootstrap_interval(score, len(rows))


def confusion(rows: Sequence[Answered], labels: Sequence[str]) -> list[list[int]]:
    """[expected, got, count] by the labels' places, empty cells left out; got -1 is no label at all."""
    places = {label: i for i, label in enumerate(labels)}
    cells = Counter((places[row.expected], places.get(row.got, -1)) for row in rows)
    return [[*cell, n] for cell, n in sorted(cells.items())][:MOST_CELLS]


def bins(rows: Sequence[Answered]) -> list[dict[str, float]]:
    """For each bin of confidence that has rows: from, to, n, mean confidence, share that is right."""
    place, confidence, right = calibration(rows)
    return [
        {"from": b / N_BINS, "to": (b + 1) / N_BINS, "n": int(here.sum()),
         "confidence": float(confidence[here].mean()), "right": float(right[here].mean())}
        for b in range(N_BINS) if (here := place == b).any()
    ]  # fmt: skip


def costs(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the requests took: mean tokens in, virtual and out, and the median and 95th percentile of the latency.

    Rows without a figure (refused, or begun again by another engine) are left out of it.
    """

    def values(name: str) -> list[float]:
        return [float(row[name]) for row in rows if isinstance(row.get(name), (int, float))]

    found: dict[str, Any] = {}
    for name in ("tokens_in", "tokens_prefix", "tokens_out"):
        known = values(name)
        found[name] = round(sum(known) / len(known), 2) if known else None
    for name, short in (("latency_ms", "latency"), ("first_token_ms", "first_token")):
        known = values(name)
        for share in (50, 95):
            found[f"{short}_p{share}_ms"] = round(float(np.percentile(known, share)), 1) if known else None
    return found
