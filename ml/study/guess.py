"""What always saying the most common label is worth: the floor that a classifier must leave behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ml.evaluate.answers import Answered
from ml.evaluate.scorers import scorer
from ml.specs.measures import EVALUATION_METRICS


def guess(metric: str, about: Mapping[str, Any], rows: Mapping[str, Sequence[Answered]]) -> float | None:
    """The metric of guessing on the test rows; None for free answers, and where no row is answered yet.

    The label is the training rows' most common one where `about` knows it, else the test rows'.
    """
    if EVALUATION_METRICS[metric].task != "classification" or not rows:
        return None
    answered = next(iter(rows.values()))
    counts = Counter(row.expected for row in answered)
    label = (about.get("most_common") or {}).get("label") or max(counts, key=lambda name: (counts[name], name))
    guessed = [replace(row, got=label, scores=()) for row in answered]
    return scorer(metric, guessed)(np.ones(len(guessed), dtype=np.int64))
