"""Data set versions: splits, what is counted, what is refused, the folder that training reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.data.rows import read_dataset
from ml.data.sniff import sniff
from ml.data.splitting import SplitSpec, check_splits, draw_splits
from ml.data.version import Recipe, RowsError, build_version
from ml.errors import DataError, SpecError

MAPPING = {"task": "classification", "prompt": "{text}", "completion": "{label}"}
STRATIFIED = {"kind": "stratified", "validation": 0.1, "test": 0.1}
Build = Callable[..., tuple[dict[str, Any], Path]]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Makes a version of rows (dicts, written as JSON lines) or of a text; returns its report and folder."""

    def _build(
        rows: list[dict[str, Any]] | str, *, out: str = "out", name: str = "rows.jsonl", **recipe: Any
    ) -> tuple[dict[str, Any], Path]:
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        path = tmp_path / "upload"
        path.write_text(text, encoding="utf-8")
        made = Recipe(**{"mapping": MAPPING, "splits": STRATIFIED, **recipe})
        return build_version(sniff(path, name), made, tmp_path / out), tmp_path / out

    return _build


def rows_of(n: int, labels: tuple[str, ...] = ("a", "b", "c")) -> list[dict[str, Any]]:
    return [{"text": f"message number {i}", "label": labels[i % len(labels)]} for i in range(n)]


def written(folder: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_training_reads_what_validation_writes(build: Build) -> None:
    report, folder = build(rows_of(300))
    dataset = read_dataset(folder, expected_sha256=report["sha256"])
    assert dataset.labels == ["a", "b", "c"]
    assert {split: len(rows) for split, rows in dataset.splits.items()} == {"train": 240, "validation": 30, "test": 30}
    first = dataset.splits["train"][0]
    assert first.messages == [{"role": "user", "content": f"message number {first.number - 1}"}]


def test_the_same_file_gives_the_same_hash_and_another_seed_another(build: Build) -> None:
    one, _ = build(rows_of(60), out="one")
    again, _ = build(rows_of(60), out="again")
    other, _ = build(rows_of(60), out="other", seed=18)
    assert one["sha256"] == again["sha256"] != other["sha256"]


def test_every_label_is_in_every_split_in_its_share(build: Build) -> None:
    _, folder = build(rows_of(300))
    for split, n in (("train", 80), ("validation", 10), ("test", 10)):
        assert Counter(row["completion"] for row in written(folder, split)) == {"a": n, "b": n, "c": n}


def test_shares_hold_over_many_rare_labels(build: Build) -> None:
    report, _ = build(rows_of(400, tuple(f"label {i}" for i in range(100))))
    assert report["splits"]["validation"] == pytest.approx(40, abs=2)
    assert report["splits"]["test"] == pytest.approx(40, abs=2)


def test_rows_with_the_same_prompt_never_part(build: Build) -> None:
    rows = [{"text": f"Message {i % 20}" + " " * (i % 3), "label": "a"} for i in range(200)]
    report, _ = build(rows, splits={"kind": "random", "validation": 0.2, "test": 0.2})
    assert report["leakage"]["n"] == 0
    assert min(report["splits"].values()) >= 20


def test_a_column_says_the_split_in_any_common_word(build: Build) -> None:
    words = ["train", "Training", "dev", "VALID", "test"]
    rows = [{"text": f"x{i}", "label": "a" if i % 2 else "b", "split": word} for i, word in enumerate(words)]
    report, _ = build(rows, splits={"kind": "column", "column": "split"})
    assert report["splits"] == {"train": 2, "validation": 2, "test": 1}


def test_an_unknown_word_in_the_split_column_is_a_problem_of_its_row(build: Build) -> None:
    rows = [{"text": "x", "label": "a", "split": "train"}, {"text": "y", "label": "b", "split": "holdout"}]
    with pytest.raises(RowsError) as caught:
        build(rows, splits={"kind": "column", "column": "split"})
    assert caught.value.problems[0]["row"] == 2
    assert caught.value.problems[0]["received"] == "holdout"


def test_leakage_between_given_splits_is_counted_and_can_be_left_out(build: Build) -> None:
    rows = [
        {"text": "Same  thing", "label": "a", "split": "train"},
        {"text": "same thing", "label": "a", "split": "test"},
        {"text": "other", "label": "b", "split": "train"},
    ]
    column = {"kind": "column", "column": "split"}
    report, _ = build(rows, splits=column)
    assert report["leakage"] == {"n": 1, "examples": [{"row": 2, "split": "test", "train_row": 1}]}
    assert report["warnings"][0]["code"] == "leakage"
    report, folder = build(rows, splits=column, drop_leaks=True, out="fair")
    assert (report["leakage"]["n"], report["n_dropped"]) == (0, 1)
    assert [row["row"] for row in written(folder, "train")] == [3]


def test_no_row_for_training_is_an_error(build: Build) -> None:
    rows = [{"text": "x", "label": "a", "split": "test"}]
    with pytest.raises(DataError, match="No row is left for training"):
        build(rows, splits={"kind": "column", "column": "split"})


def test_duplicates_and_contradictions_are_counted_by_row(build: Build) -> None:
    rows = [{"text": "x", "label": "a"}, {"text": "X ", "label": "a"}, {"text": "x", "label": "b"}]
    report, _ = build([*rows, {"text": "y", "label": "b"}])
    assert report["duplicates"] == {"n": 1, "examples": [[1, 2]]}
    assert report["contradictions"] == {"n": 1, "examples": [[1, 2, 3]]}
    report, _ = build(rows, drop_duplicates=True, out="dropped")
    assert (report["duplicates"]["n"], report["n_dropped"], sum(report["splits"].values())) == (0, 1, 2)


def test_labels_that_differ_by_case_or_dash_are_twins(build: Build) -> None:
    rows = [{"text": f"t{i}", "label": "log-in"} for i in range(5)]
    report, _ = build([*rows, {"text": "u", "label": "Login"}, {"text": "v", "label": "bug"}])
    assert [(row["label"], row["n"], row["twin_of"]) for row in report["labels"]] == [
        ("log-in", 5, ""), ("Login", 1, "log-in"), ("bug", 1, "")
    ]  # fmt: skip
    assert "twins" in [warning["code"] for warning in report["warnings"]]


def test_one_row_and_one_label_are_warned_about(build: Build) -> None:
    report, _ = build([{"text": "x", "label": "a"}])
    assert {"one_row", "one_label"} <= {warning["code"] for warning in report["warnings"]}
    assert report["splits"] == {"train": 1, "validation": 0, "test": 0}


def test_free_text_called_labels_is_warned_about(build: Build) -> None:
    report, _ = build([{"text": f"x{i}", "label": f"answer number {i}"} for i in range(50)])
    assert "many_labels" in {warning["code"] for warning in report["warnings"]}


def test_bad_rows_refuse_the_file_with_twenty_examples_and_the_total(build: Build) -> None:
    rows = [*rows_of(30), *({"text": "", "label": "a"} for _ in range(40))]
    with pytest.raises(RowsError) as caught:
        build(rows)
    error = caught.value.as_dict()
    assert (error["n_problems"], error["n_rows"], len(error["problems"])) == (40, 70, 20)
    assert error["problems"][0]["row"] == 31
    assert error["message"] == "40 of 70 rows cannot be used."


def test_bad_rows_are_left_out_and_listed_when_asked_for(build: Build) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows_of(30)) + '{"text": NaN}\n{"text": "x", "label": ""}\n'
    report, _ = build(text, leave_out=True)
    assert (report["n_left_out"], report["empties"], sum(report["splits"].values())) == (2, 1, 30)
    assert [problem["row"] for problem in report["left_out"]] == [31, 32]


def test_a_file_of_bad_rows_only_is_refused_even_then(build: Build) -> None:
    with pytest.raises(RowsError):
        build('{"text": "", "label": "a"}\n', leave_out=True)


def test_a_header_without_rows_is_refused(build: Build) -> None:
    with pytest.raises((DataError, SpecError)):
        build("text,label\n", name="rows.csv")


def test_wrong_columns_are_named_with_those_there_are(build: Build) -> None:
    with pytest.raises(SpecError, match="no column 'text'") as caught:
        build([{"question": "x", "answer": "y"}])
    assert "question, answer" in caught.value.hint


def test_row_numbers_of_a_csv_are_the_spreadsheets(build: Build) -> None:
    everything = {"kind": "random", "validation": 0, "test": 0}
    _, folder = build("text,label\r\nfirst,a\r\nsecond,b\r\n", name="rows.csv", splits=everything)
    assert [row["row"] for row in written(folder, "train")] == [2, 3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "alphabetical"}, "A split is one of"),
        ({"validation": 0.6, "test": 0.4}, "100%"),
        ({"test": -0.1}, "between 0 and 0.9"),
        ({"test": float("nan")}, "between 0 and 0.9"),
        ({"test": "many"}, "between 0 and 0.9"),
        ({"kind": "column", "column": "nope"}, "no column 'nope'"),
        ({"shares": 1}, "Unknown keys"),
    ],
)
def test_impossible_splits_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        check_splits({**STRATIFIED, **change}, ["text", "label"])


@settings(max_examples=200, deadline=None)
@given(
    groups=st.lists(st.integers(0, 255), min_size=1, max_size=60),
    validation=st.floats(0, 0.45), test=st.floats(0, 0.45), seed=st.integers(0, 99),
    kind=st.sampled_from(["random", "stratified"]),
)  # fmt: skip
def test_splits_keep_groups_together_leave_training_something_and_repeat(
    groups: list[int], validation: float, test: float, seed: int, kind: str
) -> None:
    keys, labels = np.array(groups, np.uint64), np.array([group % 3 for group in groups], np.uint32)
    spec = SplitSpec(kind=kind, validation=validation, test=test)
    chosen = draw_splits(keys, labels, spec, seed).tolist()
    assert chosen == draw_splits(keys, labels, spec, seed).tolist()
    assert 0 in chosen
    assert all(len({chosen[i] for i, g in enumerate(groups) if g == group}) == 1 for group in set(groups))
