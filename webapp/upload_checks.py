"""What is refused before a data file is stored: wrong kinds, wrong sizes, names that deceive.

The extension says what the file claims to be; the first bytes must agree (415). Names are only for people: folders,
control characters and characters that turn the reading direction are taken out, and the file lies under a UUID.
"""

from __future__ import annotations

import unicodedata

from django.conf import settings

from ml.errors import ColdframeError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt", ".parquet")
ACCEPTED = "CSV, TSV, JSONL, JSON or Parquet"
PARQUET = b"PAR1"
HEAD_BYTES = 4096
_SIGNATURES = (
    (b"PK\x03\x04", "a ZIP archive or an Excel file"),
    (b"PK\x05\x06", "a ZIP archive"),
    (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"ARROW1", "an Arrow file"),
    (b"GGUF", "a model file"),
)
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


class UnsupportedFileError(ColdframeError):
    """Not a kind of file that is read here, or not what its name says."""

    code = "unsupported_file"
    status = 415


class TooLargeError(ColdframeError):
    """More bytes than MAX_UPLOAD_MB allows."""

    code = "too_large"
    status = 413


def shown_name(name: str) -> str:
    """A file name as people see it: no folders, nothing invisible, at most 120 characters with its extension."""
    last = str(name).replace("\\", "/").rsplit("/", 1)[-1]
    clean = "".join(c for c in last if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn")).strip(" .")
    if len(clean) > 120:
        stem, dot, suffix = clean.rpartition(".")
        clean = f"{stem[:110]}…{dot}{suffix[:8]}" if dot else clean[:120]
    return clean or "upload"


def suffix_of(name: str) -> str:
    """The extension in lower case, with its dot; raises UnsupportedFileError for other kinds."""
    suffix = "." + name.rpartition(".")[2].lower() if "." in name else ""
    if suffix not in SUFFIXES:
        raise UnsupportedFileError(
            f"{name} is not {ACCEPTED}.",
            hint="Save it as one of these" + (" (in a spreadsheet: Save as, CSV)." if "xls" in suffix else "."),
        )
    return suffix


def check_size(size_bytes: int, name: str) -> None:
    """Raises TooLargeError above the limit, and ColdframeError for an empty file."""
    if size_bytes > settings.MAX_UPLOAD_BYTES:
        limit = settings.MAX_UPLOAD_BYTES // (1024 * 1024)
        raise TooLargeError(
            f"{name} has {size_bytes / 1_000_000:,.1f} MB; uploads may have {limit} MB.",
            hint="Cut it into several files, or ask the operator to raise MAX_UPLOAD_MB.",
        )
    if size_bytes == 0:
        raise ColdframeError(f"{name} is empty (0 bytes).", hint="Choose a file with rows.", code="empty_file")


def check_head(head: bytes, name: str) -> None:
    """Raises UnsupportedFileError when the first bytes belie the extension."""
    suffix = suffix_of(name)
    if (suffix == ".parquet") != head.startswith(PARQUET):
        what = (
            "no Parquet file, whatever its name says" if suffix == ".parquet" else "a Parquet file under another name"
        )
        raise UnsupportedFileError(f"{name} is {what}.", hint="Give it the extension of what it is.")
    if suffix == ".parquet":
        return
    for signature, what in _SIGNATURES:
        if head.startswith(signature):
            raise UnsupportedFileError(
                f"{name} is {what}, not {ACCEPTED}.", hint="Unpack it, or save its table as CSV, and upload that."
            )
    if head.startswith(_WIDE_MARKS):
        return
    if b"\x00" in head:
        raise UnsupportedFileError(f"{name} is a binary file, not {ACCEPTED}.", hint="Save it as text in UTF-8.")
    begin = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if begin[:9].lower() == b"<!doctype" or begin[:5].lower() in (b"<html", b"<?xml"):
        raise UnsupportedFileError(
            f"{name} is a web page or XML, not {ACCEPTED}.", hint="It may be a sign-in page that was saved by mistake."
        )
    if suffix in (".json", ".jsonl", ".ndjson") and begin and begin[:1] not in (b"{", b"["):
        raise UnsupportedFileError(
            f"{name} does not begin like JSON, got {begin[:20].decode('utf-8', 'replace')!r}.",
            hint="Rename it to .csv or .tsv when it is a table.",
        )
    if suffix in (".csv", ".tsv") and begin[:2] in (b'{"', b"[{", b"[\n"):
        raise UnsupportedFileError(f"{name} holds JSON, not a table.", hint="Rename it to .json or .jsonl.")
