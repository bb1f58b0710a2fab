"""A study with a collection: measured on the passages that it is given, anew when they are others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ml.study.passages import passages_file
from tests.ml.study.studying import Studying, outcome, read_cells, read_lines, small_rows

ABOUT = {"collection": "handbook", "top_k": 2, "threshold": 0.2, "embedder": "tiny-bert"}
GIVEN: dict[str, Any] = {"task": "generation", "techniques": ["plain", "zero_shot", "retrieval"],
                         "collection": "handbook"}  # fmt: skip
KEY = "retrieval-s17"


def saved(path: Path, text: str = "Snow is white and cold.") -> Path:
    """Passages of all test rows but the first."""
    hits = [{"chunk_id": 1, "title": "a.md", "page": None, "score": 0.8, "text": text},
            {"chunk_id": 2, "title": "b.md", "page": 3, "score": 0.5, "text": "Ash is grey."}]  # fmt: skip
    first, *others = (row["messages"][-1]["content"] for row in small_rows("generation")[30:])
    found = {first: [], **dict.fromkeys(others, hits)}
    path.write_text(json.dumps(passages_file(ABOUT, refusal="It does not say.", found=found)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def measured(studying: Studying, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sourced")
    studying.done(folder / "work", passages=saved(folder / "passages.json"), **GIVEN)
    return folder / "work" / "out"


def test_retrieval_stands_on_the_board_with_its_collection(measured: Path) -> None:
    cell = read_cells(measured)[KEY]
    assert cell["state"] == "done" and cell["tokens_in"] > read_cells(measured)["zero_shot-s17"]["tokens_in"]
    assert {name: cell["spec"][name] for name in ABOUT} == ABOUT
    assert len(cell["spec"]["passages_sha256"]) == 64
    first, *others = read_lines(measured, KEY)
    assert (first["got"], first["tokens_in"]) == ("It does not say.", 0)
    assert all(line["tokens_in"] > 40 for line in others)
    board = json.loads((measured / "board.json").read_text(encoding="utf-8"))
    assert {entry["technique"] for entry in board["entries"]} == set(GIVEN["techniques"])
    told = (measured / "report.md").read_text(encoding="utf-8")
    assert all(text in told for text in ("| Collection | handbook |", "--passages passages.json", "passages_sha256"))
    assert (measured / "passages.json").is_file()


def test_the_same_passages_give_the_same_and_others_are_measured_anew(
    measured: Path, studying: Studying, tmp_path: Path
) -> None:
    def again(name: str, **text: str) -> dict[str, Any]:
        path = saved(tmp_path / f"{name}.json", **text)
        emit = studying.done(tmp_path / name, passages=path, before=measured, **GIVEN)
        done = {event["key"] for event in emit.events if event["event"] == "cell" and event["state"] == "done"}
        return {"done": done, **outcome(tmp_path / name / "out")}

    same, other = again("same"), again("other", text="Coal is black.")
    assert (same.pop("done"), same) == (set(), outcome(measured))
    assert other["done"] == {KEY}
    assert other["cells"][KEY]["identity"] != same["cells"][KEY]["identity"]


def test_without_passages_only_retrieval_fails(studying: Studying, tmp_path: Path) -> None:
    studying.done(tmp_path / "work", **GIVEN)
    cells = read_cells(tmp_path / "work" / "out")
    assert {key: cell["state"] for key, cell in cells.items()} == {
        "plain-s17": "done", "zero_shot-s17": "done", KEY: "failed",
    }  # fmt: skip
    assert "handbook" in cells[KEY]["error"]["message"] and "deleted" in cells[KEY]["error"]["hint"]
