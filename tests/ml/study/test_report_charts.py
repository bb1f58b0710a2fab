"""The geometry of the reports' charts: everything inside, nothing on top of one another."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.study import words
from ml.study.report_scale import MOST_TICKS, linear, logarithmic, shares
from ml.study.report_svg import apart

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=20)
COSTS = st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1e12)), min_size=1, max_size=20)


@given(SHARES)
def test_an_axis_of_shares_holds_all_values_between_whole_tenths(values: list[float]) -> None:
    scale = shares(values)
    assert 0 <= scale.low < scale.high <= 1
    assert scale.low <= min(values) + 1e-9 and max(values) <= scale.high + 1e-9
    assert all(0 <= scale.at(value) <= 1 for value in values)
    assert 2 <= len(scale.ticks) <= 7


@given(COSTS)
def test_a_logarithmic_axis_keeps_the_order_and_puts_zero_first(values: list[float]) -> None:
    scale = logarithmic(values, text=words.size)
    placed = [scale.at(value) for value in sorted(values)]
    assert placed == sorted(placed)
    assert all(0 <= at <= 1 for at in placed)
    assert 1 <= len(scale.ticks) <= MOST_TICKS + 1
    if 0.0 in values and max(values) > 0:
        assert scale.at(0.0) < min(scale.at(value) for value in values if value > 0)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_a_linear_axis_begins_at_zero_and_ends_on_a_round_number(values: list[float]) -> None:
    scale = linear(values)
    assert scale.low == 0
    assert scale.high >= max(values) * (1 - 1e-9)
    assert scale.ticks[0][0] == 0
    assert math.isclose(scale.ticks[-1][0], scale.high)


@given(st.lists(st.floats(0, 280), min_size=1, max_size=14))
def test_badges_keep_their_distance_their_order_and_inside(wanted: list[float]) -> None:
    found = apart(sorted(wanted), distance=18, low=8, high=272)
    assert all(b - a >= 18 - 1e-6 for a, b in pairwise(found))
    assert found[0] >= 8 - 1e-6 and found[-1] <= 272 + 1e-6


def test_badges_that_have_room_stay_where_they_are() -> None:
    assert apart([20.0, 100.0, 200.0], distance=18, low=8, high=272) == pytest.approx([20, 100, 200])
    assert apart([100.0, 100.0], distance=18, low=8, high=272) == pytest.approx([91, 109])


def test_a_value_that_is_hardly_more_than_zero_has_an_axis() -> None:
    """10 to the power of its magnitude is no number that can be divided by."""
    scale = linear([5e-324])
    assert scale.high == 1.0
    assert scale.at(5e-324) < 1e-9
