"""Draws over rows and seeds: intervals about as wide as they must be, whatever the order of things."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.errors import DataError
from ml.evaluate.answers import Answered
from ml.evaluate.metrics import wilson
from ml.evaluate.paired import mcnemar
from ml.study.draws import aligned, draw, flipped, interval, standing

RIGHT = st.lists(st.booleans(), min_size=2, max_size=40)


def rows_of(right: list[bool]) -> list[Answered]:
    return [Answered(row=i, expected="x", got="x" if ok else "y") for i, ok in enumerate(right)]


def interval_of(cells: dict[str, list[bool]], metric: str = "accuracy") -> tuple[float, list[float]]:
    """Of one technique whose seeds are `cells`."""
    drawn = draw(metric, aligned({key: rows_of(right) for key, right in cells.items()}))
    found = standing(drawn, "some", list(cells))
    return found.value, interval(drawn, found, n_seeds=len(cells))


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
@settings(max_examples=20, deadline=None)
@given(right=RIGHT, other=RIGHT)
def test_an_interval_is_of_shares_and_holds_its_value(metric: str, right: list[bool], other: list[bool]) -> None:
    n = min(len(right), len(other))
    value, (low, high) = interval_of({"a": right[:n], "b": other[:n]}, metric)
    assert 0 <= low <= value <= high <= 1


@settings(max_examples=15, deadline=None)
@given(right=RIGHT, order=st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(right: list[bool], order: random.Random) -> None:
    rows = {"a": rows_of(right), "b": rows_of(right[::-1])}
    places = list(range(len(right)))
    order.shuffle(places)
    turned = {key: [found[place] for place in places] for key, found in rows.items()}
    one, other = draw("macro_f1", aligned(rows)), draw("macro_f1", aligned(turned))
    assert one.values == other.values
    assert all((one.draws[key] == other.draws[key]).all() for key in rows)


def test_a_cell_that_is_added_changes_nothing_for_the_others() -> None:
    rows = {"a": rows_of([True, False] * 10), "b": rows_of([True] * 20)}
    alone, beside = draw("accuracy", aligned({"a": rows["a"]})), draw("accuracy", aligned(rows))
    assert (alone.draws["a"] == beside.draws["a"]).all()


def test_one_seed_of_right_or_wrong_rows_has_wilsons_interval() -> None:
    assert interval_of({"a": [True] * 9 + [False]}) == (0.9, list(wilson(9, 10)))


@pytest.mark.parametrize("is_right", [True, False])
def test_rows_that_no_draw_can_change_still_leave_doubt(is_right: bool) -> None:
    value, found = interval_of({"a": [is_right] * 30, "b": [is_right] * 30})
    assert value == float(is_right)
    assert found == list(wilson(30 * is_right, 30))


@pytest.mark.parametrize("is_right", [True, False])
def test_so_they_do_where_a_row_may_be_half_right(is_right: bool) -> None:
    _, found = interval_of({"a": [is_right] * 30}, "token_f1")
    assert found == list(wilson(30 * is_right, 30))


def test_a_single_row_says_nothing() -> None:
    assert interval_of({"a": [True]}) == (1.0, [0.0, 1.0])


def test_seeds_that_differ_widen_the_interval() -> None:
    same = {"a": [True] * 60 + [False] * 40, "b": [True] * 60 + [False] * 40}
    apart = {"a": [True] * 70 + [False] * 30, "b": [True] * 50 + [False] * 50}
    (value, (low, high)), (other, (lower, higher)) = interval_of(same), interval_of(apart)
    assert value == other == pytest.approx(0.6)
    assert higher - lower > high - low


def test_the_interval_over_rows_and_seeds_covers_the_truth_about_nineteen_times_in_twenty() -> None:
    chance, n_covered = random.Random(4), 0
    for _ in range(60):
        means = [0.7 + chance.gauss(0, 0.04) for _ in range(3)]
        hard = [chance.random() for _ in range(80)]
        cells = {str(i): [0.5 * h + 0.5 * chance.random() < mean * 0.5 + 0.25 for h in hard]
                 for i, mean in enumerate(means)}  # fmt: skip
        truth = _truth(0.7)
        _, (low, high) = interval_of(cells)
        n_covered += low <= truth <= high
    assert 54 <= n_covered <= 60


def _truth(mean: float) -> float:
    """P(½ a + ½ b < ½ mean + ¼) of two uniform numbers: the area below a line in the unit square."""
    height = mean + 0.5
    return 1 - (2 - height) ** 2 / 2


def test_rows_are_put_together_by_number_and_expected_answer() -> None:
    a = [Answered(row=1, expected="x", got="1"), Answered(row=2, expected="x", got="2")]
    b = [Answered(row=2, expected="x", got="3"), Answered(row=1, expected="x", got="4"),
         Answered(row=9, expected="x", got="5")]  # fmt: skip
    found = aligned({"a": a, "b": b})
    assert [(x.got, y.got) for x, y in zip(found["a"], found["b"], strict=True)] == [("1", "4"), ("2", "3")]


def test_answers_of_one_conversation_are_told_apart_by_their_turn() -> None:
    turns = [Answered(row=1, expected="yes", got=got) for got in ("first", "second")]
    assert [row.got for row in aligned({"a": turns, "b": turns})["a"]] == ["first", "second"]


def test_cells_without_a_common_row_are_refused() -> None:
    with pytest.raises(DataError, match="no test row in common"):
        aligned({"a": rows_of([True]), "b": [Answered(row=7, expected="z", got="z")]})
    assert aligned({}) == {}


@pytest.mark.parametrize(("only_a", "only_b"), [(5, 0), (8, 1), (12, 6), (3, 3)])
def test_throwing_signs_is_mcnemars_exact_test(only_a: int, only_b: int) -> None:
    differences = np.array([[1.0] * only_a + [-1.0] * only_b + [0.0] * 50])
    exact = mcnemar([True] * only_a + [False] * only_b, [False] * only_a + [True] * only_b)["p"]
    assert flipped(differences)[0] == pytest.approx(exact, abs=0.015)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20))
def test_the_sign_of_a_difference_does_not_change_its_p(values: list[float]) -> None:
    one, other = flipped(np.array([values, [-value for value in values]]))
    assert one == other
    assert 0 < one <= 1
