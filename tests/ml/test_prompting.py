"""Building a prompt's messages: placeholders, escaping, several fields, examples, constants."""

from __future__ import annotations

import json

import pytest

from ml.errors import SpecError
from ml.specs.prompting import Frame, placeholders, render, values_of, worked

ASKED = [{"role": "user", "content": "Why?"}]


def test_a_placeholder_in_doubled_braces_is_text() -> None:
    assert render("{{question}}: {question}", {"question": "Why?"}) == "{question}: Why?"
    assert placeholders("{{question}} {a} {b} {a}") == ["a", "b"]


def test_braces_that_hold_no_name_stay_as_they_are() -> None:
    assert (
        render('{"a": {"b": 1}} {} { question } {question}', {"question": "x"}) == '{"a": {"b": 1}} {} { question } x'
    )


def test_what_is_typed_is_never_read_as_a_template() -> None:
    frame = Frame(template="Q: {question}", fields=("question",), constants={"labels": "a, {question}"})
    folded = frame.fold([{"role": "user", "content": "{labels} {question} {{question}}"}])
    assert folded[-1]["content"] == "Q: {labels} {question} {{question}}"


def test_one_field_takes_what_was_typed_whatever_its_name() -> None:
    assert values_of('{"a": 1}', ["text"]) == {"text": '{"a": 1}'}


def test_several_fields_take_a_json_object() -> None:
    frame = Frame(template="{title}: {text}", fields=("title", "text"))
    asked = [{"role": "user", "content": json.dumps({"title": "Fir", "text": 7})}]
    assert frame.fold(asked) == [{"role": "user", "content": "Fir: 7"}]


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("Fir", "got plain text"),
        ("[1]", "got plain text"),
        ('{"title": "Fir"}', "misses text"),
        ('{"title": "Fir", "text": "x", "txet": "y"}', "has the unknown txet"),
        ("[" * 100_000, "got plain text"),
    ],
)
def test_a_missing_or_unknown_field_is_told_by_name(typed: str, why: str) -> None:
    with pytest.raises(SpecError, match=why) as caught:
        values_of(typed, ["title", "text"])
    assert caught.value.hint == 'Send a JSON object: {"title": "…", "text": "…"}.'


def test_labels_stand_in_system_and_template() -> None:
    frame = Frame(system="One of: {labels}.", template="{question} ({labels})", fields=("question",),
                  constants={"labels": "a, b"})  # fmt: skip
    assert [m["content"] for m in frame.fold(ASKED)] == ["One of: a, b.", "Why? (a, b)"]


def test_examples_found_for_the_question_come_after_the_fixed_ones() -> None:
    frame = Frame(template="Q: {question}", fields=("question",), examples=(("fixed", "1"),))
    folded = frame.fold(ASKED, [("near", "2")])
    assert [m["content"] for m in folded] == ["Q: fixed", "1", "Q: near", "2", "Q: Why?"]


def test_an_engine_folds_as_the_web_does() -> None:
    frame = Frame(system="S {labels}", template="Q: {question}", fields=("question",), constants={"labels": "a"})
    again = Frame.from_dict(json.loads(json.dumps(frame.as_dict())))
    assert again.fold(ASKED, [("near", "2")]) == frame.fold(ASKED, [("near", "2")])


@pytest.mark.parametrize(
    ("steps", "answer", "marker", "shown"),
    [
        ("2 + 2 = 4", "4", "Answer:", "2 + 2 = 4\nAnswer: 4"),
        ("2 + 2 = 4", "Answer: 4", "Answer:", "2 + 2 = 4\nAnswer: 4"),
        ("2 + 2 = 4", "4", "", "2 + 2 = 4\n4"),
        ("", "4", "Answer:", "4"),
    ],
)
def test_a_worked_example_ends_as_its_answer_is_found(steps: str, answer: str, marker: str, shown: str) -> None:
    assert worked(steps, answer, marker) == shown
