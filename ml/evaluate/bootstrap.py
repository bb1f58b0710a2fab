"""Bootstrap intervals for scores of a whole corpus, which are no mean of its rows' scores.

Rows are drawn with replacement, as many as there are, and the score is computed again (Efron 1979; percentile
interval; for BLEU: Koehn 2004). Seeded: the same rows give the same interval. Cost: `N_RESAMPLES` times one pass over
the rows' statistics. Not for single shares, for which `ml.evaluate.metrics.wilson` is exact enough and cheaper.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES = 1000
_SEED = 20_040_725

Weights = NDArray[np.int64]
"""[N] how often each row was drawn; sums to N."""
Floats = NDArray[np.float64]


def bootstrap_interval(score: Callable[[Weights], float], n_rows: int) -> tuple[float, float]:
    """95 % interval of `score`, a function of how often each of the `n_rows` rows counts.

    Deviation from the plain percentile interval: it is widened where needed to hold the score of the rows as they
    are. Fewer than two rows say nothing: (0, 1), so scores are meant to be shares.
    """
    if n_rows < 2:
        return 0.0, 1.0
    generator = np.random.default_rng(_SEED)
    drawn = [score(_draw(generator, n_rows)) for _ in range(N_RESAMPLES)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    estimate = score(np.ones(n_rows, dtype=np.int64))
    return min(float(low), estimate), max(float(high), estimate)


def _draw(generator: np.random.Generator, n_rows: int) -> Weights:
    weights: Weights = np.bincount(generator.integers(n_rows, size=n_rows), minlength=n_rows)
    return weights


def draw_many(generator: np.random.Generator, n_rows: int, n_draws: int) -> Floats:
    """[N, R] how often each row was drawn in each of `n_draws` draws; every column sums to N."""
    picked = generator.integers(n_rows, size=(n_rows, n_draws)) * n_draws + np.arange(n_draws)
    counts = np.bincount(picked.ravel(), minlength=n_rows * n_draws)
    return counts.reshape(n_rows, n_draws).astype(np.float64)
