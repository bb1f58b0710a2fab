"""Finding answers in texts that reason, and the vote of several."""

from __future__ import annotations

from typing import Any

import pytest

from ml.errors import SpecError
from ml.specs.voting import extract, rule_check, same, vote

AFTER = {"kind": "after", "marker": "Answer:"}
NUMBER = {"kind": "number"}
LABELS = {"kind": "label", "labels": ["in", "internet", "billing"]}


@pytest.mark.parametrize(
    ("rule", "text", "answer"),
    [
        (AFTER, "First 2.\nAnswer: 4.", "4"),
        (AFTER, "Answer: 3\nNo.\n**answer:** “four”\nBye", "four"),
        (AFTER, "Answer:\n\n42", "42"),
        (AFTER, "It is 4", None),
        (AFTER, "Answer:", None),
        (NUMBER, "He pays $1,234.50 in 2 parts, so 617.25.", "617.25"),
        (NUMBER, "That makes 1,200", "1200"),
        (NUMBER, "It is -3 degrees", "-3"),
        (NUMBER, "none", None),
        ({"kind": "last_line"}, "a\nThe end.\n\n", "The end"),
        ({"kind": "last_line"}, " \n", None),
        (LABELS, "Not Billing but INTERNET, I think", "internet"),
        (LABELS, "inside", None),
        ({}, " all of it ", "all of it"),
        ({}, "", None),
    ],
)
def test_the_answer_is_found_in_the_text(rule: dict[str, Any], text: str, answer: str | None) -> None:
    assert extract(rule, text) == answer


def test_the_majority_wins_and_the_first_text_that_gave_it_is_shown() -> None:
    found = vote(NUMBER, ["so 3", "so 4.0", "so 4", "no idea", "so 4"])
    assert (found.answer, found.chosen, found.counts) == ("4.0", 1, [("4.0", 3), ("3", 1)])
    assert found.agreement == pytest.approx(0.6)


def test_a_tie_goes_to_the_answer_that_was_written_first() -> None:
    assert vote(NUMBER, ["7", "8", "8", "7"]).answer == "7"


def test_texts_without_an_answer_do_not_vote_but_count_against_agreement() -> None:
    found = vote(AFTER, ["Answer: b", "hm", "hm", "hm"])
    assert (found.answer, found.agreement) == ("b", 0.25)


def test_no_answer_at_all_is_told_and_the_first_text_is_shown() -> None:
    found = vote(AFTER, ["hm", "ah"])
    assert found.as_dict() == {"answer": None, "agreement": 0.0, "votes": []} and found.chosen == 0


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [("4", "4.00", True), ("1,000", "1000", True), ("$5", "5", True), ("Yes.", "yes", True), ("a  b", "A b", True),
     ("4", "5", False), ("1e999999999", "2e999999999", False), ("nan", "NaN", True)],
)  # fmt: skip
def test_answers_that_say_the_same_are_one(one: str, other: str, is_same: bool) -> None:
    assert (same(one) == same(other)) is is_same


@pytest.mark.parametrize(
    ("kind", "marker", "labels", "field"),
    [("regex", "", (), "answer_kind"), ("after", " ", (), "marker"), ("after", "x" * 61, (), "marker"),
     ("label", "", (), "answer_kind")],
)  # fmt: skip
def test_a_rule_that_cannot_work_is_refused(kind: str, marker: str, labels: tuple[str, ...], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        rule_check(kind, marker, labels)
    assert caught.value.field == field


def test_a_long_text_without_an_answer_is_read_quickly() -> None:
    """No rule has a pattern that a text could make explode."""
    text = "1" * 200_000 + " " + "- " * 100_000
    assert extract(NUMBER, text) and extract(AFTER, text) is None
