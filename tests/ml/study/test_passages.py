"""Passages that a study is given: what was found for each row comes back as it was, and a broken file is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ml.errors import DataError
from ml.study.passages import Passages, passages_file, passages_like, read_passages

ABOUT = {"collection": "handbook", "top_k": 2, "threshold": 0.2, "embedder": "minilm-l6"}


def hit(chunk: int, score: float) -> dict[str, Any]:
    return {"chunk_id": chunk, "title": f"{chunk}.md", "page": None, "score": score, "text": f"Text {chunk}.", "n": 9}


def saved(folder: Path) -> Path:
    found = {"What?": [hit(1, 0.9), hit(2, 0.5)], "Who?": [], "Why?": [hit(2, 0.4)]}
    path = folder / "passages.json"
    path.write_text(json.dumps(passages_file(ABOUT, refusal="No.", found=found)), encoding="utf-8")
    return path


def test_what_was_found_comes_back_numbered(tmp_path: Path) -> None:
    read = read_passages(saved(tmp_path))
    assert [(one["n"], one["text"], one["score"]) for one in read.of("What?")] == [
        (1, "Text 1.", 0.9),
        (2, "Text 2.", 0.5),
    ]
    assert (read.of("Who?"), [one["n"] for one in read.of("Why?")]) == ([], [1])
    assert (read.refusal, dict(read.about)) == ("No.", ABOUT)
    assert read.example() == ["Text 1.", "Text 2."]


def test_a_passage_that_many_questions_have_is_kept_once(tmp_path: Path) -> None:
    assert saved(tmp_path).read_text(encoding="utf-8").count("Text 2.") == 1


def test_other_passages_have_another_hash(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = read_passages(path).sha256
    path.write_text(path.read_text(encoding="utf-8").replace("Text 1.", "Text one."), encoding="utf-8")
    assert before != read_passages(path).sha256 and len(before) == 64


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"sources": {}, "questions": [], "refusal": ""}',
             '{"sources": {"1": {"text": "a"}}, "questions": {"What?": [["2", 1]]}, "refusal": ""}',
             '{"sources": {"1": {"text": 3}}, "questions": {}, "refusal": ""}']
)  # fmt: skip
def test_a_broken_file_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "passages.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"passages\.json cannot be read"):
        read_passages(path)
    with pytest.raises(DataError, match=r"gone\.json cannot be read"):
        read_passages(tmp_path / "gone.json")


def test_a_plan_s_passages_are_the_same_for_every_question() -> None:
    assert passages_like(["a", "b"]).of("Any?") == [{"n": 1, "text": "a"}, {"n": 2, "text": "b"}]
    assert Passages().example() == []
