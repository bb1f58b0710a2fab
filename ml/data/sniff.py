"""What kind of text file this is: format, encoding, separator, from its first bytes.

Guarantees: reads at most 256 KB. Does not read rows (`ml.data.readers`) and does not guess what they mean
(`ml.data.formats`).
"""

from __future__ import annotations

import codecs
import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ml.errors import DataError

Format = Literal["csv", "tsv", "jsonl", "json", "parquet"]
HEAD_BYTES = 256 * 1024
PARQUET_MAGIC = b"PAR1"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DELIMITERS = (",", ";", "\t", "|")
DELIMITER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file and how to read it."""

    path: Path
    format: Format
    encoding: str
    delimiter: str = ""
    """Only for CSV and TSV."""
    has_lone_cr: bool = False
    """True when lines seem to end in CR alone, as on very old machines."""


def encoding_of(head: bytes) -> str:
    """The encoding by byte order mark, else UTF-8 where it fits, else charset-normalizer's best guess."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=False)
        return "utf-8"
    except UnicodeDecodeError as error:
        valid = head[: error.start]
    # A few broken bytes in a text that is UTF-8 otherwise are reported by row, not read as something else.
    if any(byte >= 0x80 for byte in valid):
        return "utf-8"
    from charset_normalizer import from_bytes

    best = from_bytes(head, steps=5, chunk_size=2048).best()
    return best.encoding if best is not None else "cp1252"


def sniff(path: Path, filename: str = "") -> Source:
    """How to read `path`. `filename` (as uploaded) helps to tell CSV from TSV. Raises DataError for an empty file."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(PARQUET_MAGIC):
        return Source(path=path, format="parquet", encoding="binary")
    encoding = encoding_of(head)
    text = codecs.getincrementaldecoder(encoding)(errors="replace").decode(head, final=False)
    begin = text.lstrip()
    if not begin:
        raise DataError(
            f"{filename or path.name} is empty.", hint="Give a file with at least one row.", code="empty_file"
        )
    suffix = Path(filename).suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _table(path, encoding, text, suffix)
    if begin[0] == "[":
        return Source(path=path, format="json", encoding=encoding)
    if begin[0] == "{":
        return _lines(path, encoding, text, _lines_or_list(begin, filename or path.name))
    if suffix in (".jsonl", ".ndjson"):
        return _lines(path, encoding, text, "jsonl")
    if suffix == ".json":
        return Source(path=path, format="json", encoding=encoding)
    return _table(path, encoding, text, suffix)


def _lines(path: Path, encoding: str, text: str, format: Format) -> Source:
    has_lone_cr = "\r" in text.replace("\r\n", "").rstrip("\r")
    return Source(path=path, format=format, encoding=encoding, has_lone_cr=has_lone_cr)


def _lines_or_list(text: str, name: str) -> Format:
    """JSON lines, unless the first object is spread over lines: then there is one object and no list of rows."""
    line = text.split("\n", 1)[0]
    if line.rstrip() == "{":
        raise DataError(
            f"{name} is one JSON object spread over several lines.",
            hint="Give a list of objects, [{…}, {…}], or one object a line.",
            code="not_a_list",
        )
    return "jsonl"


def _table(path: Path, encoding: str, text: str, suffix: str) -> Source:
    delimiter = "\t" if suffix == ".tsv" else delimiter_of(text)
    return Source(path=path, format="tsv" if delimiter == "\t" else "csv", encoding=encoding, delimiter=delimiter)


def delimiter_of(text: str) -> str:
    """The separator that cuts the first rows into the same number of cells, the more the better."""
    best, best_score = ",", 0.0
    for delimiter in _DELIMITERS:
        widths: list[int] = []
        try:
            for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
                widths.append(len(cells))
                if len(widths) == 50:
                    break
        except csv.Error:
            continue
        widths = widths[:-1] if 1 < len(widths) < 50 else widths
        if not widths or widths[0] < 2:
            continue
        score = sum(width == widths[0] for width in widths) / len(widths) + widths[0] / 1000
        if score > best_score:
            best, best_score = delimiter, score
    return best
