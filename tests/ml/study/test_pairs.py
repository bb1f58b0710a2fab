"""Pairs of techniques: what is certain, what is open, and how many rows would tell."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.evaluate.answers import Answered
from ml.study.draws import aligned, draw, standing
from ml.study.pairs import LEVEL, Side, compare_all, decide, differences

RIGHT = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40)


def rows_of(right: list[bool]) -> list[Answered]:
    return [Answered(row=i, expected="x", got="x" if ok else "y") for i, ok in enumerate(right)]


def compared(*techniques: list[bool], metric: str = "accuracy") -> list[dict[str, Any]]:
    """In the order of their rank."""
    rows = aligned({str(i): rows_of(right) for i, right in enumerate(techniques)})
    drawn = draw(metric, rows)
    sides = [Side(name=key, standing=standing(drawn, key, [key]), first=found) for key, found in rows.items()]
    return compare_all(sides, metric=metric, n_rows=drawn.n_rows)


@settings(max_examples=20, deadline=None)
@given(RIGHT)
def test_turning_a_pair_round_turns_the_sign_only(pairs: list[tuple[bool, bool]]) -> None:
    a, b = ([pair[side] for pair in pairs] for side in (0, 1))
    rows = aligned({"a": rows_of(a), "b": rows_of(b)})
    drawn = draw("accuracy", rows)
    x, y = (standing(drawn, key, [key]) for key in rows)
    (one,), (other,) = differences([(x, y)], len(a)), differences([(y, x)], len(a))
    assert one["difference"] == -other["difference"]
    assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]))
    assert one["p"] == other["p"]
    assert one["rows_needed"] == other["rows_needed"]


def test_equals_are_a_tie_that_no_number_of_rows_breaks() -> None:
    (found,) = compared([True, False] * 20, [True, False] * 20)
    assert (found["difference"], found["low"], found["high"], found["p"]) == (0, 0, 0, 1)
    assert not found["is_certain"]
    assert found["rows_needed"] is None


def test_a_clear_difference_is_certain_and_says_on_which_rows() -> None:
    (found,) = compared([True] * 90 + [False] * 10, [True] * 60 + [False] * 38 + [True] * 2)
    assert found["is_certain"]
    assert found["low"] > 0.15
    assert (found["only_a"], found["only_b"]) == (30, 2)


def test_five_rows_are_not_enough_however_one_sided() -> None:
    """The bootstrap alone gives p = .013: hardly any draw misses all five rows. McNemar's exact test gives .0625."""
    (found,) = compared([True] * 200, [True] * 195 + [False] * 5)
    assert found["low"] > 0
    assert found["p"] > LEVEL
    assert not found["is_certain"]


@pytest.mark.parametrize(("a", "b"), [([True], [False]), ([True] * 2, [False] * 2)])
def test_a_row_or_two_make_nothing_certain(a: list[bool], b: list[bool]) -> None:
    (found,) = compared(a, b)
    assert found["difference"] == 1
    assert not found["is_certain"]


def test_the_correction_keeps_the_order_of_the_p_values_and_never_lowers_one() -> None:
    chance = random.Random(2)
    found = compared(*([chance.random() < share for _ in range(60)] for share in (0.9, 0.8, 0.75, 0.5, 0.45)))
    ranked = sorted(found, key=lambda pair: pair["p"])
    assert [pair["p_adjusted"] for pair in ranked] == sorted(pair["p_adjusted"] for pair in found)
    assert all(pair["p"] <= pair["p_adjusted"] <= 1 for pair in found)


def test_a_groups_best_is_corrected_over_its_own_comparisons_alone() -> None:
    chance = random.Random(3)
    found = compared(*([chance.random() < share for _ in range(60)] for share in (0.9, 0.8, 0.7, 0.6, 0.5)))
    before = {pair["b"]: pair["p_adjusted"] for pair in found if pair["a"] == "0"}
    below = decide(found, "0")
    after = {pair["b"]: pair["p_adjusted"] for pair in found if pair["a"] == "0"}
    assert all(after[name] <= before[name] for name in after)
    assert any(after[name] < before[name] for name in after)
    assert below == next(pair["b"] for pair in found if pair["a"] == "0" and pair["is_certain"])


def test_the_rows_needed_find_the_difference_four_times_in_five() -> None:
    """McNemar's normal test at the number of rows that is named, simulated with the split that was seen."""
    (found,) = compared([True] * 12 + [False] * 4 + [True] * 84, [False] * 12 + [True] * 4 + [True] * 84)
    needed, chance = found["rows_needed"], random.Random(1)
    n_found = 0
    for _ in range(400):
        marks = chance.choices((1, -1, 0), weights=(12, 4, 84), k=needed)
        n_found += abs(sum(marks)) > 1.96 * sum(mark * mark for mark in marks) ** 0.5
    assert 0.74 < n_found / 400 < 0.88


def test_a_metric_that_is_no_mean_of_rows_is_compared_too() -> None:
    (found,) = compared([True] * 38 + [False] * 2, [True, False] * 20, metric="macro_f1")
    assert found["is_certain"]
    assert found["rows_needed"] >= 2


def test_equal_techniques_are_seldom_told_apart_though_the_luckiest_is_compared_with_all() -> None:
    chance, n_wrong = random.Random(6), 0
    for _ in range(60):
        hard = [chance.random() for _ in range(60)]
        equal = [[h + chance.random() < 1.2 for h in hard] for _ in range(5)]
        found = compared(*sorted(equal, key=sum, reverse=True))
        n_wrong += decide(found, "0") is not None
    assert n_wrong <= 6
