"""Reading data set folders, and the order in which training sees the rows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ml.data.rows import batch_rows, check_every_label_is_taught, encode_rows, epoch_order, read_dataset
from ml.errors import DataError
from tests.ml.conftest import save_dataset, tiny_tokenizer

ROW = {"row": 1, "messages": [{"role": "user", "content": "Colour?"}], "completion": "red"}


def folder_with(tmp_path: Path, second_line: str) -> Path:
    folder = save_dataset(tmp_path / "d", {"train": [ROW]}, task="classification", labels=["red", "blue"])
    with (folder / "train.jsonl").open("a") as file:
        file.write(second_line + "\n")
    return folder


def changed(**values: Any) -> str:
    return json.dumps({**ROW, "row": 41, **values})


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"row": 41, "messages"', "train.jsonl line 2 is not valid JSON"),
        ("[1, 2]", "train.jsonl line 2 is not a row with a number"),
        (changed(completion=" "), r"train.jsonl line 2 \(row 41\) has no answer"),
        (changed(completion=None), r"train.jsonl line 2 \(row 41\) has no answer"),
        (changed(messages=[]), r"train.jsonl line 2 \(row 41\): messages must be"),
        (changed(messages=[{"role": "assistant", "content": "x"}]), r"\(row 41\) must end in a user message"),
        (changed(completion="mauve"), "train: row 41 has the label 'mauve'"),
    ],
)
def test_a_damaged_row_is_named_by_line_and_row_number(tmp_path: Path, line: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        read_dataset(folder_with(tmp_path, line))


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, changed())
    (folder / "train.jsonl").write_bytes(b'{"row": 1, "completion": "\xff"}\n')
    with pytest.raises(DataError, match=r"train.jsonl line 1 is not valid JSON"):
        read_dataset(folder)


def test_another_version_than_the_spec_asks_for_is_refused(tiny_dataset_dir: Path) -> None:
    with pytest.raises(DataError, match="the spec asks for bbb"):
        read_dataset(tiny_dataset_dir, expected_sha256="bbb")


def test_no_training_rows_are_refused(tmp_path: Path) -> None:
    folder = save_dataset(tmp_path / "d", {"train": [], "test": [ROW]}, task="generation", labels=None)
    with pytest.raises(DataError, match="no training rows"):
        read_dataset(folder)


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.json cannot be read"):
        read_dataset(tmp_path)


def test_splits_that_are_missing_are_empty(tmp_path: Path) -> None:
    dataset = read_dataset(save_dataset(tmp_path / "d", {"train": [ROW]}, task="generation", labels=None))
    assert dataset.splits["validation"] == []


def test_a_row_that_cannot_be_encoded_is_named(tiny_dataset_dir: Path) -> None:
    rows = read_dataset(tiny_dataset_dir).splits["train"]
    with pytest.raises(DataError, match="Row 1: No token of the answer is left"):
        encode_rows(rows, tiny_tokenizer(), 1)


def test_every_epoch_sees_every_row_once_in_an_order_of_its_own() -> None:
    seen = [i for step in range(9) for i in batch_rows(17, step, 4, 12)]
    epochs = [seen[:12], seen[12:24], seen[24:]]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_order_is_a_function_of_seed_epoch_and_position() -> None:
    epoch_order.cache_clear()
    assert batch_rows(17, 2, 5, 12) == [i for step in range(15) for i in batch_rows(17, step, 1, 12)][10:15]
    assert epoch_order(17, 0, 6) == (2, 5, 3, 0, 1, 4)
    assert epoch_order(18, 0, 6) != epoch_order(17, 0, 6)


def test_a_batch_larger_than_the_data_set_repeats_rows_evenly() -> None:
    assert set(Counter(batch_rows(17, 0, 12, 4)).values()) == {3}


def test_labels_without_a_training_row_are_named(tmp_path: Path) -> None:
    labels = ["red", "blue", "mauve"]
    rows = {"train": [ROW], "test": [{**ROW, "completion": "blue"}]}
    dataset = read_dataset(save_dataset(tmp_path / "d", rows, task="classification", labels=labels))
    with pytest.raises(DataError, match="2 of 3 labels have no training row: blue, mauve") as caught:
        check_every_label_is_taught(dataset)
    assert caught.value.field == "labels"


def test_labels_that_all_have_training_rows_pass(tiny_dataset_dir: Path) -> None:
    check_every_label_is_taught(read_dataset(tiny_dataset_dir))
