"""Documents as text: formats, encodings, page offsets, and every way in which a file can be bad."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ml.errors import DataError
from ml.retrieval.child import read_document
from ml.retrieval.parse import Parsed, parse, unwrapped
from tests.ml.retrieval.make_pdf import bomb_pdf, cyclic_pdf, encrypted_pdf, pdf_with, pdf_with_contents


def read(folder: Path, name: str, data: bytes) -> Parsed:
    path = folder / "content"
    path.write_bytes(data)
    return parse(path, filename=name)


def refusal(folder: Path, name: str, data: bytes) -> DataError:
    with pytest.raises(DataError) as caught:
        read(folder, name, data)
    return caught.value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_a_text_file_is_read_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    text = "Où est l'acheté café? Il a été réparé à l'été, déjà. Très bien, monsieur le préfet.\n" * 4
    assert read(tmp_path, "note.txt", text.encode(encoding)).text == text


def test_newlines_are_of_one_kind_and_control_characters_are_gone(tmp_path: Path) -> None:
    assert read(tmp_path, "a.md", b"# One\r\ntwo\rthree\x00\x07\tfour\n").text == "# One\ntwo\nthree\tfour\n"


def test_the_pages_of_a_pdf_start_where_they_say(tmp_path: Path) -> None:
    found = read(tmp_path, "a.pdf", pdf_with(["First page here.", "", "Third page here."]))
    assert [found.text[offset:][:5] for offset in found.pages] == ["First", "\n\nThi", "Third"]


def test_a_pdf_with_junk_before_its_header_is_read(tmp_path: Path) -> None:
    assert "Hello" in read(tmp_path, "a.pdf", b"\r\n" + pdf_with(["Hello there."])).text


def test_a_pdf_encrypted_with_the_empty_password_opens(tmp_path: Path) -> None:
    assert read(tmp_path, "a.pdf", encrypted_pdf("")).text == "Secret."


def test_an_encrypted_pdf_says_so(tmp_path: Path) -> None:
    error = refusal(tmp_path, "brief.pdf", encrypted_pdf("hunter2"))
    assert (error.code, error.message) == ("encrypted", "brief.pdf is encrypted with a password.")
    assert "without the password" in error.hint


def test_a_pdf_without_text_says_that_it_may_be_a_scan(tmp_path: Path) -> None:
    error = refusal(tmp_path, "scan.pdf", pdf_with(["", ""]))
    assert error.code == "no_text"
    assert "scan.pdf has no text on its 2 pages" in error.message
    assert "OCR" in error.hint


@pytest.mark.parametrize(
    "data", [b"%PDF-1.7\nnothing follows", pdf_with(["Hello."])[:150], b"\x00\x01\x02" * 50, b"<html>Hello</html>"]
)
def test_a_damaged_pdf_says_so(tmp_path: Path, data: bytes) -> None:
    error = refusal(tmp_path, "a.pdf", data)
    assert error.code == "damaged"
    assert error.message.startswith("a.pdf is damaged and cannot be read as PDF")


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    assert refusal(tmp_path, "a.txt", b"").message == "a.txt is empty: it has 0 bytes."
    assert refusal(tmp_path, "a.md", b" \n\t ").code == "empty"


def test_a_binary_file_with_a_text_ending_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, "a.txt", bytes(range(256)) * 20).code == "not_text"


def test_an_unknown_ending_is_refused_with_what_can_be_read(tmp_path: Path) -> None:
    error = refusal(tmp_path, "a.docx", b"PK\x03\x04")
    assert (error.code, ".docx" in error.message, ".pdf" in error.hint) == ("unsupported", True, True)


def test_a_page_tree_that_contains_itself_is_damaged(tmp_path: Path) -> None:
    assert refusal(tmp_path, "a.pdf", cyclic_pdf()).code == "damaged"


def test_a_pdf_that_decodes_to_too_much_is_refused(tmp_path: Path) -> None:
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    error = refusal(tmp_path, "bomb.pdf", bomb_pdf(80_000_000))
    assert error.message == "bomb.pdf: PDF exceeds 75 MB decoded / 30 s."


def test_a_file_is_read_in_a_child_process_with_the_same_result(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(pdf_with(["First page here.", "Second page here."]))
    assert read_document(path, filename="a.pdf") == parse(path, filename="a.pdf")


def test_an_error_in_the_child_arrives_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(encrypted_pdf("hunter2"))
    with pytest.raises(DataError, match="encrypted with a password"):
        read_document(path, filename="a.pdf")


def test_a_reader_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(pdf_with_contents([b"BT /F1 9 Tf " + b"(word) Tj 1 0 Td " * 400_000 + b" ET"]))
    with pytest.raises(DataError, match="PDF exceeds 75 MB decoded / 30 s"):
        read_document(path, filename="slow.pdf", timeout_s=0.5)


def test_a_reader_that_needs_too_much_memory_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"word " * 10_000_000)
    with pytest.raises(DataError, match="could not be read within"):
        read_document(path, filename="a.txt", memory_bytes=100 << 20)


def test_full_lines_of_print_become_paragraphs_and_short_ones_stay() -> None:
    full = "A tree that stands upon the boundary line between two"
    lines = [
        "THE COURT",
        full,
        full,
        "owners.",
        "",
        full,
        "1. first of a list of things that go on for some while",
        "x",
    ]
    assert unwrapped("\n".join(lines)).split("\n")[:5] == [
        "THE COURT", f"{full} {full} owners.", "", full, "1. first of a list of things that go on for some while x"
    ]  # fmt: skip
