"""Parquet files as rows, those that were made to harm included."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.data import parquet_rows
from ml.data.inspection import inspect_file
from ml.data.raw import Problem, Row
from ml.data.readers import read_rows
from ml.data.sniff import sniff
from ml.errors import DataError


def read(path: Path, table: pa.Table, **options: Any) -> list[Row | Problem]:
    pq.write_table(table, path, **options)
    return list(read_rows(sniff(path, "rows.parquet")))


def test_rows_come_out_in_order_with_numbers_from_one(tmp_path: Path) -> None:
    table = pa.table({"text": [f"row {i}" for i in range(2500)], "label": ["a", "b"] * 1250})
    rows = read(tmp_path / "x", table, row_group_size=700)
    assert [row.number for row in rows if isinstance(row, Row)] == list(range(1, 2501))
    assert rows[2499] == Row(number=2500, values={"text": "row 2499", "label": "b"})


def test_nested_values_dates_and_nothing_are_read(tmp_path: Path) -> None:
    messages = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]]
    table = pa.table({"messages": messages, "day": [datetime.date(2026, 1, 2)], "none": pa.nulls(1)})
    (row,) = read(tmp_path / "x", table)
    assert isinstance(row, Row)
    assert row.values == {"messages": messages[0], "day": "2026-01-02", "none": None}


def test_numbers_of_a_hugging_face_class_come_out_as_its_names(tmp_path: Path) -> None:
    features = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["no", "yes"]}}}}
    table = pa.table({"text": ["a", "b", "c"], "label": [1, 0, -1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    rows = read(tmp_path / "x", table)
    assert [row.values["label"] for row in rows if isinstance(row, Row)] == ["yes", "no", None]


def test_bytes_are_a_problem_of_their_row_and_column(tmp_path: Path) -> None:
    rows = read(tmp_path / "x", pa.table({"text": ["a"], "picture": [b"\x89PNG"]}))
    assert isinstance(rows[0], Problem)
    assert (rows[0].row, rows[0].column) == (1, "picture")
    assert "neither text nor a number" in rows[0].message


def test_a_row_group_that_declares_too_much_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_rows, "MAX_GROUP_BYTES", 10_000)
    with pytest.raises(DataError, match="Row group 1 of the Parquet file"):
        read(tmp_path / "x", pa.table({"text": ["x" * 1000 + str(i) for i in range(100)]}), use_dictionary=False)


@pytest.mark.parametrize("cut", [5, 40, -9])
def test_a_broken_file_is_said_to_be_broken(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x"
    pq.write_table(pa.table({"text": ["a", "b"]}), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="cannot be read"):
        list(read_rows(sniff(path, "rows.parquet")))


def test_a_first_look_names_format_and_columns(tmp_path: Path) -> None:
    path = tmp_path / "x"
    pq.write_table(pa.table({"text": [f"t {i}" for i in range(9)], "label": ["a", "b", "c"] * 3}), path)
    report = inspect_file(path, filename="rows.parquet")
    assert (report["format_name"], report["n_rows"], report["recognised"]) == ("Parquet", 9, "text_label")
