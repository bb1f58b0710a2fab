"""Rows out of files that people bring, broken ones included."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.data.raw import MAX_LINE, Problem, Row
from ml.data.readers import read_rows
from ml.data.sniff import sniff
from ml.errors import DataError

Reader = Callable[..., list[Row | Problem]]


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    """Writes bytes to a file of the given name and reads every row of it."""

    def _read(content: bytes | str, name: str = "rows.csv") -> list[Row | Problem]:
        path = tmp_path / "upload"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return list(read_rows(sniff(path, name)))

    return _read


def values(rows: list[Row | Problem]) -> list[dict[str, Any]]:
    return [row.values for row in rows if isinstance(row, Row)]


def problems(rows: list[Row | Problem]) -> list[Problem]:
    return [row for row in rows if isinstance(row, Problem)]


def test_a_csv_row_has_the_number_a_spreadsheet_shows(read: Reader) -> None:
    rows = read("text,label\nhello,a\nbye,b\n")
    assert [(row.number, row.values) for row in rows if isinstance(row, Row)] == [
        (2, {"text": "hello", "label": "a"}), (3, {"text": "bye", "label": "b"})
    ]  # fmt: skip


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_separator_is_found_by_itself(read: Reader, delimiter: str) -> None:
    text = f"text{delimiter}label\n" + "".join(f"row {i}{delimiter}a\n" for i in range(5))
    assert values(read(text, "rows.txt"))[4] == {"text": "row 4", "label": "a"}


def test_a_cell_may_hold_the_separator_quotes_and_line_breaks(read: Reader) -> None:
    assert values(read('text,label\n"a, ""b""\nc",x\n')) == [{"text": 'a, "b"\nc', "label": "x"}]


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_every_kind_of_line_end_is_understood(read: Reader, end: str) -> None:
    assert values(read(f"text,label{end}hello,a{end}bye,b{end}"))[1] == {"text": "bye", "label": "b"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_is_not_part_of_the_first_column(read: Reader, encoding: str) -> None:
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    rows = read(mark + "text,label\nGrüße,ä\n".encode(encoding))
    assert values(rows) == [{"text": "Grüße", "label": "ä"}]


def test_a_latin_1_file_is_read_as_such(read: Reader) -> None:
    text = "text,label\n" + "".join(f"Größe und Straße {i} für Müller,möbel\n" for i in range(30))
    assert values(read(text.encode("cp1252")))[7] == {"text": "Größe und Straße 7 für Müller", "label": "möbel"}


def test_a_broken_byte_in_a_utf_8_file_is_reported_by_row(read: Reader) -> None:
    rows = read('{"text": "Grüße"}\n'.encode() + b'{"text": "caf\xe9"}\n{"text": "fine"}\n', "rows.jsonl")
    assert [problem.row for problem in problems(rows)] == [2]
    assert "0xE9" in problems(rows)[0].message
    assert len(values(rows)) == 2


def test_a_row_with_too_many_or_too_few_cells_is_named(read: Reader) -> None:
    rows = read("a,b\n1,2\n1\n1,2,3\n1,2,\n")
    assert [(p.row, p.message) for p in problems(rows)] == [
        (3, "Row 3 has 1 cells, the header has 2."), (4, "Row 4 has 3 cells, the header has 2.")
    ]  # fmt: skip


def test_a_quote_that_never_ends_is_reported_where_it_begins(read: Reader) -> None:
    rows = read('a,b\n1,2\n"never,ends\n3,4\n5,6\n')
    assert [p.row for p in problems(rows)] == [3]
    assert problems(rows)[0].is_last


def test_a_quote_inside_a_quoted_cell_spoils_only_its_row(read: Reader) -> None:
    rows = read('a,b\n"x"y,2\n3,4\n')
    assert [p.row for p in problems(rows)] == [2]
    assert values(rows) == [{"a": "3", "b": "4"}]


def test_equal_and_missing_column_names_are_made_unique(read: Reader) -> None:
    assert list(values(read("text,,text,{x}\n1,2,3,4\n"))[0]) == ["text", "column_2", "text_2", "(x)"]


def test_a_header_of_a_thousand_columns_is_refused(read: Reader) -> None:
    rows = read(",".join(f"c{i}" for i in range(1000)) + "\n")
    assert "1,000 columns" in problems(rows)[0].message


def test_json_lines_keep_their_line_numbers_over_blank_lines(read: Reader) -> None:
    rows = read('{"a": 1}\n\n{"a": 2}\n', "rows.jsonl")
    assert [row.number for row in rows if isinstance(row, Row)] == [1, 3]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "-Infinity"),
        ('{"a": 1e999}', "too large"),
        ('{"a": "\\ud800"}', "U+D800"),
        ('{"\\udfff": 1}', "U+DFFF"),
        ('{"a": "x\\u0000y"}', "NUL"),
        ('{"a": ' + "[" * 40 + "]" * 40 + "}", "nested deeper"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested deeper"),
        ('{"a": ' * 100_000, "nested deeper"),
        ('{"a": 1', "not valid JSON"),
        ("[1, 2]", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ('{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
    ],
)
def test_json_that_cannot_be_used_is_one_problem_with_its_line(read: Reader, line: str, words: str) -> None:
    rows = read('{"a": 0}\n' + line + '\n{"a": 2}\n', "rows.jsonl")
    assert [p.row for p in problems(rows)] == [2]
    assert words in problems(rows)[0].message
    assert len(values(rows)) == 2


def test_a_line_over_4_mb_is_skipped_without_being_kept(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    with path.open("wb") as file:
        file.write(b'{"a": 1}\n{"a": "')
        for _ in range(64):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n{"a": 3}\n')
    source = sniff(path, "rows.jsonl")
    tracemalloc.start()
    rows = list(read_rows(source))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(p.row, p.message) for p in problems(rows)] == [(2, "Line 2 is longer than 4 MB.")]
    assert [row["a"] for row in values(rows)] == [1, 3]
    assert peak < 8 * MAX_LINE


def test_a_json_list_is_read_element_by_element(read: Reader) -> None:
    items = [{"text": f"row {i}", "nested": {"a": [i]}} for i in range(5000)]
    rows = read(json.dumps(items, indent=1), "rows.json")
    assert values(rows) == items
    assert rows[-1] == Row(number=5000, values=items[-1])


def test_a_json_list_with_an_element_longer_than_a_window_is_read(read: Reader) -> None:
    items = [{"text": "x" * 300_000}, {"text": "end"}]
    assert values(read(json.dumps(items), "rows.json")) == items


@pytest.mark.parametrize(
    ("text", "row", "words"),
    [
        ('[{"a": 1}, {"a": }]', 2, "not valid JSON"),
        ('[{"a": 1} {"a": 2}]', 2, "comma"),
        ('[{"a": 1}, 7]', 2, "not a JSON object"),
        ("[" * 100_000, 1, "nested deeper"),
        ('[{"a": "' + "x" * (5 << 20) + '"}]', 1, "longer than 4 MB"),
        ('[{"a": 1}', 2, "comma or ] is missing"),
        ('[{"a": NaN}]', 1, "NaN"),
        ('[{"a": "\\ud800"}]', 1, "U+D800"),
    ],
)
def test_a_broken_json_list_says_which_element(read: Reader, text: str, row: int, words: str) -> None:
    found = problems(read(text, "rows.json"))
    assert (found[0].row, words in found[0].message) == (row, True), found


@pytest.mark.parametrize("content", [b"", b"   \n\n", b"\xef\xbb\xbf", b"\xff\xfe"])
def test_a_file_without_text_is_empty(read: Reader, content: bytes) -> None:
    with pytest.raises(DataError, match="is empty"):
        read(content)


def test_one_object_over_many_lines_is_told_apart_from_json_lines(read: Reader) -> None:
    with pytest.raises(DataError, match="spread over several lines"):
        read('{\n "a": 1\n}', "rows.json")


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=400), name=st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt"]))
def test_no_bytes_whatever_bring_the_reader_down(tmp_path_factory: Any, content: bytes, name: str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(content)
    try:
        rows = list(read_rows(sniff(path, name)))
    except DataError:
        return
    for row in rows:
        if isinstance(row, Row):
            json.dumps(row.values, allow_nan=False).encode("utf-8")
            assert "\x00" not in json.dumps(row.values, ensure_ascii=False)
