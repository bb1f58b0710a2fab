"""The data sets of the published studies: fixed rows, and specs that a study takes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from bench.study import publish, spec_of
from bench.study_sets import SETS, Set, make_folder
from ml.data.rows import read_dataset
from ml.specs.study import study_spec
from tests.ml.study.fake import fake_study

ROWS = {"train_rows": 12, "valid_rows": 6, "test_rows": 10}


def asked(**changes: object) -> argparse.Namespace:
    given = {"full": False, "quick": False, "only": None, "base": "tiny", "budget": 0, "seeds": None, "no_curve": False}
    return argparse.Namespace(**{**given, **changes})


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "snips7"
    folder.mkdir(parents=True)
    for file in ("train", "valid", "test"):
        rows = [{"prompt": f"{file} {i}", "completion": "ab"[i % 2], "label": "ab"[i % 2]} for i in range(30)]
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path / "data"


def test_the_rows_are_the_same_each_time_and_as_many_as_asked_for(raw: Path, tmp_path: Path) -> None:
    folder, sha256 = make_folder(SETS[0], ROWS, raw, tmp_path / "one")
    dataset = read_dataset(folder, expected_sha256=sha256)
    assert {split: len(rows) for split, rows in dataset.splits.items()} == {"train": 12, "validation": 6, "test": 10}
    assert make_folder(SETS[0], ROWS, raw, tmp_path / "two")[1] == sha256
    assert all(row.messages[0]["content"].startswith("test ") for row in dataset.splits["test"])


def test_the_labels_come_in_turn_so_that_none_is_missing_from_a_few_rows(raw: Path, tmp_path: Path) -> None:
    dataset = read_dataset(make_folder(SETS[0], ROWS, raw, tmp_path / "sets")[0])
    assert [row.completion for row in dataset.splits["train"]].count("a") == 6


def test_no_number_means_every_row(raw: Path, tmp_path: Path) -> None:
    dataset = read_dataset(make_folder(SETS[0], {**ROWS, "train_rows": 0}, raw, tmp_path / "sets")[0])
    assert len(dataset.splits["train"]) == 30


@pytest.mark.parametrize("study", SETS, ids=lambda study: study.name)
@pytest.mark.parametrize("size", [{}, {"quick": True}, {"full": True}], ids=["cpu", "quick", "gpu"])
def test_every_size_of_every_set_is_a_spec_that_a_study_takes(study: Set, size: dict[str, bool]) -> None:
    spec = study_spec({**spec_of(study, asked(**size)), "dataset_sha256": "0" * 64}, task=study.task)
    assert set(spec.techniques) == set(study.techniques)


def test_a_part_of_a_set_has_fewer_seeds_and_no_curve() -> None:
    spec = spec_of(SETS[0], asked(seeds=[17], no_curve=True))
    assert (spec["seeds"], spec["shares"], spec["curve_techniques"]) == ([17], [], [])


def test_what_is_published_says_what_others_found_and_holds_every_figure(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fake_study(out)
    publish(SETS[0], out, tmp_path / "published")
    text = (tmp_path / "published" / "snips7.md").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert SETS[0].published in text
    about, *cells = (tmp_path / "published" / "snips7.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(about)["spec"]["techniques"]
    assert len(cells) == len(list((out / "cells").glob("*.json")))


def test_no_row_of_the_data_is_published(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fake_study(out)
    path = out / "cells" / "few_shot-s17.json"
    cell = json.loads(path.read_text(encoding="utf-8"))
    cell["spec"] = {**(cell.get("spec") or {}), "examples": [{"question": "Whose row?", "answer": "Theirs."}]}
    path.write_text(json.dumps(cell), encoding="utf-8")
    publish(SETS[0], out, tmp_path / "published")
    for file in (tmp_path / "published").iterdir():
        text = file.read_text(encoding="utf-8")
        assert "Whose row?" not in text and "Theirs." not in text and "sha256" in text


def test_questions_are_trained_on_other_documents_than_they_are_asked_of(tmp_path: Path) -> None:
    study = next(study for study in SETS if study.has_documents)
    raw = tmp_path / "data" / study.name
    raw.mkdir(parents=True)
    rows = [{"query": f"Question {i}?", "answer": str(i), "split": "test" if i % 2 else "valid"} for i in range(60)]
    (raw / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    dataset = read_dataset(make_folder(study, ROWS, tmp_path / "data", tmp_path / "set")[0])
    found = {split: [int(row.completion) % 2 for row in rows] for split, rows in dataset.splits.items()}
    assert found == {"train": [0] * 12, "validation": [0] * 6, "test": [1] * 10}
    questions = [row.messages[-1]["content"] for rows in dataset.splits.values() for row in rows]
    assert len(set(questions)) == 28


def test_only_a_set_with_documents_has_retrieval() -> None:
    assert {study.name for study in SETS if "retrieval" in study.techniques} == {"squad_rag"}
