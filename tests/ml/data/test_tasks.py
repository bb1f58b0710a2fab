"""Task kinds and formats beyond labels: conversations, questions, preference pairs, lone texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml.data.mapping import check_mapping, map_rows
from ml.data.raw import Problem, Row
from ml.data.rows import read_dataset
from ml.data.sniff import sniff
from ml.data.version import MAX_LABELS, Recipe, build_version
from ml.errors import DataError, SpecError

Build = Callable[..., tuple[dict[str, Any], Path]]
EVERY = {"format": "messages", "column": "messages", "task": "chat", "turns": "every"}


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def _build(rows: list[dict[str, Any]], mapping: dict[str, str], **recipe: Any) -> tuple[dict[str, Any], Path]:
        path = tmp_path / "upload"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        made = Recipe(**{"mapping": mapping, "splits": {"kind": "random", "validation": 0.2, "test": 0.2}, **recipe})
        return build_version(sniff(path, "rows.jsonl"), made, tmp_path / "out"), tmp_path / "out"

    return _build


def test_every_answer_of_a_conversation_can_be_a_row_of_its_own() -> None:
    found = map_rows(check_mapping(EVERY, ["messages"]), Row(number=3, values={"messages": turns("a", "b", "c", "d")}))
    assert not isinstance(found, Problem)
    assert [(len(one.messages), one.completion, one.row) for one in found] == [(1, "b", 3), (3, "d", 3)]


def test_a_greeting_before_the_first_question_is_not_learnt() -> None:
    messages = [{"role": "assistant", "content": "Hello!"}, *turns("a", "b")]
    found = map_rows(check_mapping(EVERY, ["messages"]), Row(number=1, values={"messages": messages}))
    assert not isinstance(found, Problem)
    assert [one.completion for one in found] == ["b"]


def test_rows_of_one_conversation_never_part(build: Build) -> None:
    rows = [{"messages": turns(f"question {i}", "x", f"more of {i}", "y", f"and {i}", "z")} for i in range(40)]
    report, folder = build(rows, EVERY)
    assert sum(report["splits"].values()) == 120
    assert report["splits"]["test"] % 3 == 0 == report["splits"]["validation"] % 3
    dataset = read_dataset(folder)
    split_of: dict[int, set[str]] = {}
    for split, kept in dataset.splits.items():
        for row in kept:
            split_of.setdefault(row.number, set()).add(split)
    assert all(len(found) == 1 for found in split_of.values())
    assert (dataset.task, dataset.kind) == ("generation", "chat")


def test_questions_keep_every_accepted_answer(build: Build) -> None:
    rows = [
        {"question": f"Who is {i}?", "context": "Ada and Bob.", "answers": {"text": ["Ada", "Bob", "Ada"]}}
        for i in range(5)
    ]
    _, folder = build(rows, {"format": "squad", "task": "question_answering"})
    first = read_dataset(folder).splits["train"][0]
    assert (first.completion, first.answers) == ("Ada", ("Ada", "Bob"))
    assert first.messages[0]["content"].startswith("Ada and Bob.\n\nQuestion: Who is")


def test_a_question_without_an_answer_is_an_empty_row(build: Build) -> None:
    rows = [{"question": "a", "answers": {"text": ["x"]}}, {"question": "b", "answers": {"text": []}}]
    report, _ = build(rows, {"format": "squad", "task": "question_answering"}, leave_out=True)
    assert (report["empties"], report["left_out"][0]["row"], report["left_out"][0]["column"]) == (1, 2, "answers")


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": turns("a"), "chosen": [{"role": "assistant", "content": "b"}], "rejected": []},
        {"prompt": turns("a"), "chosen": turns("a", "b"), "rejected": turns("a", "c")},
        {"chosen": turns("a", "b"), "rejected": turns("a", "c")},
    ],
)
def test_of_a_preference_pair_the_chosen_answer_is_learnt(values: dict[str, Any]) -> None:
    found = map_rows(
        check_mapping({"format": "preference", "task": "generation"}, list(values)), Row(number=1, values=values)
    )
    assert not isinstance(found, Problem)
    assert (found[0].messages, found[0].completion) == (turns("a"), "b")


def test_lone_texts_are_told_apart_by_themselves_and_not_by_the_one_request(build: Build) -> None:
    rows = [{"text": f"A story about bed {i}."} for i in range(30)]
    report, _ = build(rows, {"format": "text", "column": "text", "task": "generation", "prompt": "Tell a story."})
    assert (report["contradictions"]["n"], report["leakage"]["n"]) == (0, 0)
    assert min(report["splits"].values()) > 0
    assert report["samples"][0]["messages"] == turns("Tell a story.")


def test_a_hundred_thousand_labels_are_refused_early_with_a_way_out(build: Build) -> None:
    rows = [{"text": f"t {i}", "label": f"label {i}"} for i in range(100_000)]
    with pytest.raises(DataError, match=f"more than {MAX_LABELS:,} different labels") as caught:
        build(rows, {"task": "classification", "prompt": "{text}", "completion": "{label}"})
    assert "generation" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "words"), [({"task": "poetry"}, "task must be one of"), ({"turns": "some"}, "turns must be one of")]
)
def test_unknown_kinds_are_refused(change: dict[str, str], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        check_mapping({**EVERY, **change}, ["messages"])


def test_large_whole_numbers_stay_exact_and_nul_is_named(tmp_path: Path) -> None:
    from ml.data.readers import read_rows

    path = tmp_path / "x"
    path.write_text('{"a": 123456789012345678901234567890}\n{"a": ["x\\u0000"]}\n{"a": [12345678901234567890]}\n')
    rows = list(read_rows(sniff(path, "x.jsonl")))
    assert isinstance(rows[0], Row) and rows[0].values == {"a": 123456789012345678901234567890}
    assert isinstance(rows[1], Problem) and "NUL" in rows[1].message
    assert isinstance(rows[2], Row) and rows[2].values == {"a": [12345678901234567890]}
