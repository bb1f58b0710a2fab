"""From rows to messages and completions."""

from __future__ import annotations

from typing import Any

import pytest

from ml.data.mapping import check_mapping, map_row, placeholders, render
from ml.data.raw import Problem, Row
from ml.errors import SpecError


def mapped(mapping: dict[str, Any], values: dict[str, Any], columns: list[str] | None = None) -> Any:
    checked = check_mapping(mapping, columns or list(values))
    return map_row(checked, Row(number=7, values=values))


COLUMNS = {"task": "generation", "prompt": "{q}", "completion": "{a}"}


def test_a_template_takes_the_rows_values() -> None:
    found = mapped(
        {
            "task": "classification",
            "prompt": "Ticket: {subject}\n{body}\n\nQueue:",
            "completion": "queue",
            "system": "S",
        },
        {"subject": "Card", "body": "Charged twice", "queue": " billing "},
    )
    assert found.messages == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Ticket: Card\nCharged twice\n\nQueue:"},
    ]
    assert (found.completion, found.row) == ("billing", 7)


def test_doubled_braces_stand_for_braces() -> None:
    assert render('{{"answer": "{a}"}}', {"a": "x"}) == '{"answer": "x"}'
    assert placeholders("{{a}} {b} {b}") == ["b"]


@pytest.mark.parametrize(("value", "text"), [(3, "3"), (True, "true"), (["a"], '["a"]'), (1.5, "1.5")])
def test_values_that_are_not_text_are_written_as_json(value: Any, text: str) -> None:
    assert mapped(COLUMNS, {"q": "x", "a": value}).completion == text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "{nope}"}, "no column 'nope'"),
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": "no column at all"}, "names no column"),
        ({"completion": ""}, "completion is empty"),
        ({"task": "poetry"}, "task must be one of"),
        ({"format": "xml"}, "Unknown format"),
        ({"color": "red"}, "Unknown keys"),
        ({"system": "x" * 30_000}, "at most 20,000"),
        ({"system": "\ud800"}, "U\\+D800"),
        ({"prompt": 3}, "must be text"),
    ],
)
def test_a_mapping_that_cannot_work_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        check_mapping({**COLUMNS, **change}, ["q", "a"])


@pytest.mark.parametrize("values", [{"q": "", "a": "x"}, {"q": "x", "a": "  "}, {"q": None, "a": "x"}])
def test_an_empty_prompt_or_completion_is_a_problem_of_the_row(values: dict[str, Any]) -> None:
    found = mapped(COLUMNS, values)
    assert isinstance(found, Problem)
    assert (found.row, found.kind, found.received) == (7, "empty", "(empty)")


def test_a_row_without_a_column_is_named() -> None:
    found = mapped(COLUMNS, {"q": "x"}, ["q", "a"])
    assert isinstance(found, Problem)
    assert (found.message, found.column) == ("Row 7 has no 'a'.", "a")


def test_a_conversation_gives_its_last_answer() -> None:
    turns = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": [{"type": "text", "text": "Bye"}]},
        {"role": "assistant", "content": "Goodbye"},
    ]
    found = mapped({"format": "messages", "column": "messages", "task": "generation"}, {"messages": turns})
    assert [m["role"] for m in found.messages] == ["system", "user", "assistant", "user"]
    assert (found.messages[-1]["content"], found.completion) == ("Bye", "Goodbye")


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([], "no list of messages"),
        ("text", "no list of messages"),
        ([{"role": "user", "content": "a"}], "does not end in an answer"),
        ([{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}], "by 'tool'"),
        ([{"role": "user", "content": None}, {"role": "assistant", "content": "b"}], "without text"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}, {"role": "assistant", "content": "b"}],
            "other than text",
        ),
        ([{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}], "question and its answer"),
        ([1, 2], "by None"),
    ],
)
def test_conversations_that_cannot_be_learnt_are_named(turns: Any, words: str) -> None:
    found = mapped({"format": "messages", "column": "messages", "task": "generation"}, {"messages": turns})
    assert isinstance(found, Problem)
    assert words in found.message


def test_sharegpt_turns_are_read() -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    mapping = {"format": "sharegpt", "column": "conversations", "task": "generation"}
    found = mapped(mapping, {"conversations": turns, "system": "S"})
    assert found.messages == [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}]
    assert found.completion == "Hello"


def test_alpaca_joins_instruction_and_input_and_keeps_the_history() -> None:
    row = {"instruction": "Sum up.", "input": "A text", "output": "T", "history": [["a", "b"]], "system": "S"}
    found = mapped({"format": "alpaca", "task": "generation"}, row)
    assert [m["content"] for m in found.messages] == ["S", "a", "b", "Sum up.\n\nA text"]
    assert mapped({"format": "alpaca", "task": "generation"}, {"instruction": "Say x", "output": "x"}).messages == [
        {"role": "user", "content": "Say x"}
    ]


def test_prompt_and_completion_may_be_message_lists() -> None:
    row = {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Hello"}]}
    found = mapped({"format": "prompt_completion", "task": "generation"}, row)
    assert (found.messages, found.completion) == ([{"role": "user", "content": "Hi"}], "Hello")
