"""Splits that are given by files of their own: train, validation and test brought one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml.data.rows import read_dataset
from ml.data.sniff import sniff
from ml.data.version import Part, Recipe, RowsError, build_version
from ml.errors import SpecError
from tests.ml.data.test_cli_validate import run_child, spec_for

MAPPING = {"task": "classification", "prompt": "{text}", "completion": "{label}"}
Build = Callable[..., dict[str, Any]]


def rows(n: int, word: str) -> str:
    return "".join(json.dumps({"text": f"{word} {i}", "label": "ab"[i % 2]}) + "\n" for i in range(n))


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Makes a version of a training text and one a held-out split; returns its report."""

    def _build(train: str, /, recipe: dict[str, Any] | None = None, **others: str) -> dict[str, Any]:
        def kept(name: str, text: str) -> Path:
            path = tmp_path / f"{name}.jsonl"
            path.write_text(text, encoding="utf-8")
            return path

        source = sniff(kept("train", train), "train.jsonl")
        parts = [Part(source=sniff(kept(s, text), f"{s}.jsonl"), split=s, name=f"{s}.jsonl")
                 for s, text in others.items()]  # fmt: skip
        made = Recipe(**{"mapping": MAPPING, "splits": {"kind": "files"}, **(recipe or {})})
        return build_version(source, made, tmp_path / "out", others=parts)

    return _build


def test_every_file_is_one_split_and_rows_are_numbered_on(build: Build, tmp_path: Path) -> None:
    report = build(rows(6, "a"), validation=rows(2, "b"), test=rows(4, "c"))
    assert report["splits"] == {"train": 6, "validation": 2, "test": 4}
    found = read_dataset(tmp_path / "out").splits
    assert [row.number for row in found["validation"]] == [7, 8]
    assert [row.number for row in found["test"]] == [9, 10, 11, 12]
    assert found["test"][0].messages[-1]["content"] == "c 0"


def test_a_row_in_two_files_is_a_leak_and_can_be_left_out_of_train(build: Build) -> None:
    train, test = rows(6, "a"), rows(1, "a") + rows(3, "c")
    assert build(train, test=test)["leakage"] == {
        "n": 1, "examples": [{"row": 7, "split": "test", "train_row": 1}]
    }  # fmt: skip
    report = build(train, {"drop_leaks": True}, test=test)
    assert (report["leakage"]["n"], report["splits"]["train"], report["n_dropped"]) == (0, 5, 1)


def test_a_bad_row_is_named_with_its_file_and_its_own_number(build: Build) -> None:
    with pytest.raises(RowsError) as caught:
        build(rows(3, "a"), test=rows(1, "b") + '{"text": "no label"}\n')
    problem = caught.value.problems[0]
    assert (problem["row"], problem["message"]) == (2, "test.jsonl: Row 2 has no 'label'.")


def test_files_and_a_drawn_split_exclude_each_other(build: Build) -> None:
    with pytest.raises(SpecError, match="come with 1 further files"):
        build(rows(3, "a"), {"splits": {"kind": "random"}}, test=rows(3, "b"))
    with pytest.raises(SpecError, match="come with 0 further files"):
        build(rows(3, "a"))


def test_a_further_file_is_never_for_training(build: Build) -> None:
    with pytest.raises(SpecError, match="validation or test, got 'train'"):
        build(rows(3, "a"), train=rows(3, "b"))


def test_the_command_takes_the_files_and_counts_them_together(tmp_path: Path) -> None:
    (tmp_path / "test").write_text(rows(2, "test"), encoding="utf-8")
    part = {"source_path": str(tmp_path / "test"), "filename": "test.jsonl", "split": "test"}
    spec = spec_for(tmp_path, rows(4, "train"), splits={"kind": "files"}, parts=[part])
    code, said = run_child(tmp_path, spec)
    assert code == 0
    assert said[-1]["metrics"] == {"n_rows": 6, "n_left_out": 0, "train": 4, "validation": 0, "test": 2}
    assert all(event["done"] < 100 for event in said if event["event"] == "progress")


def test_a_file_of_held_out_rows_that_is_gone_exits_65(tmp_path: Path) -> None:
    part = {"source_path": str(tmp_path / "gone"), "filename": "test.jsonl", "split": "test"}
    code, said = run_child(tmp_path, spec_for(tmp_path, rows(4, "train"), splits={"kind": "files"}, parts=[part]))
    assert (code, said[-1]["error"]["code"]) == (65, "file_missing")
