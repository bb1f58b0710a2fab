"""Bootstrap intervals: seeded, about as wide as theory says, never beside the estimate."""

from __future__ import annotations

import numpy as np
import pytest

from ml.evaluate.bootstrap import Weights, bootstrap_interval


def test_the_interval_of_a_mean_is_about_the_normal_one() -> None:
    values = np.random.default_rng(0).uniform(size=400)
    half = 1.96 * values.std() / 20

    def mean(weights: Weights) -> float:
        return float(weights @ values) / 400

    assert bootstrap_interval(mean, 400) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.004)
    assert bootstrap_interval(mean, 400) == bootstrap_interval(mean, 400)


def test_the_interval_holds_the_estimate_even_where_resamples_are_all_lower() -> None:
    low, high = bootstrap_interval(lambda weights: float((weights > 0).mean()), 50)
    assert low < high == 1.0


@pytest.mark.parametrize("n_rows", [0, 1])
def test_fewer_than_two_rows_say_nothing(n_rows: int) -> None:
    assert bootstrap_interval(lambda weights: 0.5, n_rows) == (0.0, 1.0)
