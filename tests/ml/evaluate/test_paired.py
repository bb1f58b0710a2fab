"""Two subjects on the same rows."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.errors import DataError
from ml.evaluate.answers import Answered
from ml.evaluate.paired import compare, holm, mcnemar, same_rows, two_sided


def rows_of(right, expected="x"):
    return [Answered(row=i, expected=expected, got=expected if ok else "y") for i, ok in enumerate(right, start=1)]


def test_a_subject_does_not_differ_from_itself():
    rows = rows_of([True, False] * 20)
    found = compare(rows, rows, metrics=["accuracy"])["metrics"]["accuracy"]
    assert (found["difference"], found["low"], found["high"], found["p"]) == (0, 0, 0, 1)
    assert found["mcnemar"] == {"only_a": 0, "only_b": 0, "p": 1.0}


def test_pairing_finds_a_difference_that_separate_intervals_hide():
    """80 % and 70 % of 100 rows have overlapping intervals, yet one is right wherever the other is."""
    a, b = rows_of([True] * 80 + [False] * 20), rows_of([True] * 70 + [False] * 30)
    found = compare(a, b, metrics=["accuracy"])["metrics"]["accuracy"]
    assert found["difference"] == pytest.approx(0.1)
    assert 0 < found["low"] < 0.1 < found["high"] < 0.2
    assert found["mcnemar"]["only_a"] == 10 and found["mcnemar"]["p"] == pytest.approx(2 / 1024)


def test_the_interval_covers_no_difference_about_nineteen_times_in_twenty():
    draw, n_covered = random.Random(5), 0
    for _ in range(40):
        a, b = (rows_of([draw.random() < 0.6 for _ in range(60)]) for _ in range(2))
        found = compare(a, b, metrics=["accuracy"])["metrics"]["accuracy"]
        n_covered += found["low"] <= 0 <= found["high"]
    assert n_covered >= 34


def test_scores_of_a_whole_corpus_are_compared_too():
    texts = ["the cat sat on the mat", "it rains a lot today here", "we go home by train now"] * 5
    good = [Answered(row=i, expected=t, got=t) for i, t in enumerate(texts)]
    poor = [Answered(row=i, expected=t, got=t[:12]) for i, t in enumerate(texts)]
    found = compare(good, poor, metrics=["bleu", "chrf", "rouge_l", "token_f1"])["metrics"]
    for name, values in found.items():
        assert values["low"] > 0, name
        assert "mcnemar" not in values


def test_swapping_the_two_turns_the_sign_only():
    a, b = rows_of([True] * 9 + [False] * 6), rows_of([True] * 5 + [False] * 10)
    one, other = (compare(x, y, metrics=["accuracy"])["metrics"]["accuracy"] for x, y in ((a, b), (b, a)))
    assert one["difference"] == -other["difference"] and one["p"] == pytest.approx(other["p"])


def test_only_rows_that_both_answered_are_compared():
    a, b = rows_of([True] * 4), rows_of([True] * 2)
    left, right = same_rows(a, b)
    assert [row.row for row in left] == [row.row for row in right] == [1, 2]
    assert same_rows(a, rows_of([True], expected="z")) == ([], [])
    with pytest.raises(DataError, match="same rows"):
        compare(a, b, metrics=["accuracy"])
    with pytest.raises(DataError, match="no row in common"):
        compare([], [], metrics=["accuracy"])


def test_mcnemar_is_exact_for_many_rows():
    assert mcnemar([True] * 3000, [False] * 3000)["p"] < 1e-100
    assert mcnemar([True, False], [False, True])["p"] == 1.0


def test_holm_is_the_table_of_its_paper() -> None:
    """Four tests at 5 %: .01 stands for four, .04 for the last two of them alone."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=30))
def test_holm_keeps_the_order_and_lies_between_the_value_and_bonferroni(values) -> None:
    adjusted = holm(values)
    order = sorted(range(len(values)), key=values.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)
    for value, found in zip(values, adjusted, strict=True):
        assert value <= found <= max(value, min(1.0, len(values) * value)) + 1e-12


@given(st.lists(st.floats(min_value=0, max_value=1), min_size=2, max_size=12), st.randoms())
def test_holm_does_not_mind_the_order(values, shuffler) -> None:
    places = list(range(len(values)))
    shuffler.shuffle(places)
    found = holm(values)
    assert holm([values[i] for i in places]) == [found[i] for i in places]


def test_a_difference_that_is_never_drawn_on_the_other_side_has_the_smallest_p() -> None:
    assert two_sided(np.full(999, 0.1)) == pytest.approx(2 / 1000)
    assert two_sided(np.zeros(999)) == 1.0
