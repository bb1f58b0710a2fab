"""The schedule of a search: as many rungs as halvings, and a ladder of learning rates around the default."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.specs import METHODS
from ml.study.halving import FACTOR, learning_rates, n_kept, rungs

tries, steps = st.integers(1, 9), st.integers(1, 10_000)


@pytest.mark.parametrize(
    ("n_tries", "n_steps", "expected"),
    [(1, 60, []), (2, 60, [30]), (3, 60, [15, 30]), (5, 80, [10, 20, 40]), (9, 160, [10, 20, 40, 80])],
)
def test_tries_are_compared_at_halves_quarters_eighths(n_tries: int, n_steps: int, expected: list[int]) -> None:
    assert rungs(n_tries, n_steps) == expected


@pytest.mark.parametrize(("n_steps", "expected"), [(1, [1]), (2, [1]), (3, [1]), (4, [1, 2]), (8, [1, 2, 4])])
def test_a_short_training_has_fewer_rungs(n_steps: int, expected: list[int]) -> None:
    assert rungs(9, n_steps) == expected


@given(tries, steps)
def test_rungs_rise_and_leave_something_of_the_training(n_tries: int, n_steps: int) -> None:
    found = rungs(n_tries, n_steps)
    assert found == sorted(set(found))
    assert all(1 <= rung < n_steps for rung in found) or n_steps == 1
    assert bool(found) == (n_tries > 1)


@given(tries, st.integers(16, 10_000))
def test_one_is_left_after_the_last_rung(n_tries: int, n_steps: int) -> None:
    left = n_tries
    for _ in rungs(n_tries, n_steps):
        left = n_kept(left)
    assert left == 1


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (9, 5)])
def test_the_better_half_goes_on_rounded_up_but_never_all(n: int, expected: int) -> None:
    assert n_kept(n) == expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_tries", range(1, 10))
def test_the_default_is_always_tried_and_so_many_are(method: str, n_tries: int) -> None:
    default = METHODS[method].defaults["learning_rate"]
    found = learning_rates(default, n_tries)
    assert default in found
    assert len(found) == n_tries
    assert list(found) == sorted(found)


def test_neighbours_differ_by_the_same_factor_and_the_odd_one_is_above() -> None:
    assert learning_rates(1e-3, 3) == (0.000316, 1e-3, 0.00316)
    assert learning_rates(1e-3, 4) == (0.000316, 1e-3, 0.00316, 0.01)
    assert math.isclose(FACTOR**2, 10)


def test_rates_stay_within_what_a_learning_rate_may_be() -> None:
    assert max(learning_rates(5.0, 5)) == 10.0
    assert min(learning_rates(2e-8, 5)) == 1e-8
    assert learning_rates(10.0, 5).count(10.0) == 1
