"""Files that are refused before they are stored, and how names are shown."""

from __future__ import annotations

from typing import Any

import pytest

from ml.errors import ColdframeError
from webapp.upload_checks import check_head, check_size, shown_name, suffix_of


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd.csv", "passwd.csv"),
        ("C:\\Users\\me\\tickets.csv", "tickets.csv"),
        ("evil\u202evsc.exe.csv", "evilvsc.exe.csv"),
        ("a\x00b\nc.csv", "abc.csv"),
        ("Größe 😀.csv", "Größe 😀.csv"),
        ("...", "upload"),
        ("", "upload"),
        ("\ud800.csv", "csv"),
    ],
)
def test_a_name_is_shown_without_what_deceives(name: str, shown: str) -> None:
    assert shown_name(name) == shown


def test_a_4_kb_name_is_cut_but_keeps_its_extension() -> None:
    shown = shown_name("x" * 4096 + ".jsonl")
    assert len(shown) <= 120
    assert shown.endswith(".jsonl")


@pytest.mark.parametrize("name", ["rows.xlsx", "rows.feather", "rows", "rows.csv.exe", "model.pkl"])
def test_other_kinds_of_files_are_415(name: str) -> None:
    with pytest.raises(ColdframeError) as caught:
        suffix_of(name)
    assert caught.value.status == 415


@pytest.mark.parametrize(
    ("head", "name", "words"),
    [
        (b"PK\x03\x04rest", "rows.csv", "ZIP archive or an Excel file"),
        (b"%PDF-1.7", "rows.csv", "a PDF"),
        (b"\x1f\x8b\x08", "rows.jsonl", "gzip"),
        (b"PAR1", "rows.csv", "Parquet"),
        (b"\x89PNG\r\n", "rows.json", "PNG"),
        (b"a,b\n\x00\x01", "rows.csv", "binary"),
        (b"<!DOCTYPE html><html>", "rows.csv", "web page"),
        (b"text,label\n", "rows.json", "does not begin like JSON"),
        (b'{"text": 1}', "rows.csv", "holds JSON"),
        (b"text,label\n", "rows.parquet", "no Parquet file"),
    ],
)
def test_bytes_that_belie_the_extension_are_415(head: bytes, name: str, words: str) -> None:
    with pytest.raises(ColdframeError, match=words) as caught:
        check_head(head, name)
    assert caught.value.status == 415


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"text,label\n", "rows.csv"),
        ("text,label\n".encode("utf-16"), "rows.csv"),
        (b'\xef\xbb\xbf{"text": 1}', "rows.jsonl"),
        (b"\n\n[{", "rows.json"),
        ("Größe;b\n".encode("cp1252"), "rows.txt"),
        (b"PAR1\x15\x04", "rows.parquet"),
    ],
)
def test_text_of_every_encoding_and_parquet_pass(head: bytes, name: str) -> None:
    check_head(head, name)


def test_sizes_are_checked_with_the_value_received(settings: Any) -> None:
    settings.MAX_UPLOAD_BYTES = 5 * 1024 * 1024
    with pytest.raises(ColdframeError, match=r"6\.0 MB; uploads may have 5 MB") as caught:
        check_size(6_000_000, "rows.csv")
    assert caught.value.status == 413
    with pytest.raises(ColdframeError, match="empty"):
        check_size(0, "rows.csv")
