"""Labels and numbers read out of what a model wrote."""

from __future__ import annotations

import pytest

from ml.evaluate.answers import Answered, is_right, kept_answers, label_in, same_number
from ml.evaluate.scorers import row_scores
from ml.evaluate.summary import summarize

LABELS = ["billing", "Outage", "outage", "moving house"]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("billing", "billing"),
        (" Billing. ", "billing"),
        ("moving  house!\nBecause they move.", "moving house"),
        ("outage", "outage"),
        ("Outage", "Outage"),
        ("It is about billing", ""),
        ("", ""),
        ("bill", ""),
    ],
)
def test_a_label_is_read_where_the_answer_is_one_and_nowhere_else(text, label):
    assert label_in(text, LABELS) == label


@pytest.mark.parametrize(
    ("expected", "got", "is_same"),
    [
        ("He has 3 left.\n#### 42", "So it is 42.", True),
        ("#### 1,200", "The total is 1200.00 dollars", True),
        ("#### -7", "-7", True),
        ("#### 7", "3 + 4 = 8", False),
        ("#### 7", "none", False),
        ("no number", "no number", False),
        ("#### 0.5", "#### .5 of 3", False),
    ],
)
def test_numbers_are_compared_by_value(expected, got, is_same):
    assert same_number(expected, got) is is_same


def test_a_row_is_right_by_the_main_metric_of_its_evaluation():
    row = Answered(row=1, expected="#### 4", got="that makes 4")
    assert is_right(row, "numeric") and not is_right(row, "exact_match")
    assert not is_right(Answered(row=1, expected="a", got=""), "accuracy")


def test_any_of_several_right_answers_counts_and_the_nearest_one_is_compared():
    """Only the first accepted answer of a SQuAD row counted: "the Denver Broncos" was wrong where "Denver Broncos"
    stood first."""
    answers = ("Denver Broncos", "The Broncos of Denver.")
    row = Answered(row=1, expected="Denver Broncos", got="the broncos of Denver", answers=answers)
    assert row.wanted == "The Broncos of Denver."
    assert is_right(row, "token_f1") and row_scores("token_f1", [row]) == [1.0]
    assert summarize([row], metrics=["exact_match", "rouge_l"])["metrics"] == {"exact_match": 1.0, "rouge_l": 1.0}
    assert is_right(Answered(row=1, expected="4", got="so 5", answers=("4", "5")), "numeric")


def test_a_row_keeps_its_answers_in_the_results_where_there_are_several():
    assert kept_answers(["a", "b"]) == {"answers": ["a", "b"]}
    assert kept_answers(["a"]) == kept_answers([]) == {}
    assert Answered.from_dict({"row": 1, "expected": "a", "got": "b", "answers": ["a", "b"]}).answers == ("a", "b")
