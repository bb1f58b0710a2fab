"""The data sets of the study: fixed rows, nothing held out that could be looked at while learning."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.method_sets import STUDIES, make_folder
from ml.data.rows import read_dataset


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "snips7"
    folder.mkdir(parents=True)
    for file in ("train", "valid", "test"):
        rows = [{"prompt": f"{file} {i}", "completion": "ab"[i % 2], "label": "ab"[i % 2]} for i in range(30)]
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path / "data"


def test_the_rows_are_the_same_each_time_and_as_many_as_asked_for(raw: Path, tmp_path: Path) -> None:
    study = replace(STUDIES[0], steps=3, batch_size=4, n_test=10)
    folder, sha256 = make_folder(study, raw, tmp_path / "one")
    dataset = read_dataset(folder, expected_sha256=sha256)
    assert {split: len(rows) for split, rows in dataset.splits.items()} == {"train": 12, "validation": 0, "test": 10}
    assert make_folder(study, raw, tmp_path / "two")[1] == sha256
    assert all(row.messages[0]["content"].startswith("test ") for row in dataset.splits["test"])


def test_the_labels_come_in_turn_so_that_none_is_missing_from_a_few_rows(raw: Path, tmp_path: Path) -> None:
    dataset = read_dataset(make_folder(replace(STUDIES[0], steps=1, batch_size=4), raw, tmp_path / "sets")[0])
    assert [row.completion for row in dataset.splits["train"]].count("a") == 2


def test_settings_can_be_chosen_on_validation_rows(raw: Path, tmp_path: Path) -> None:
    study = replace(STUDIES[0], steps=3, batch_size=4, n_test=10, measured_on="valid")
    dataset = read_dataset(make_folder(study, raw, tmp_path / "sets")[0])
    assert all(row.messages[0]["content"].startswith("valid ") for row in dataset.splits["test"])
