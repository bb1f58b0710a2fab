"""What may be uploaded as a document: ending, first bytes, size; and a file name that is safe to show.

Guarantees: a file passes only when its first bytes fit its ending (415), it is not empty, and it is within the limit
(413); nothing is read into memory but its head. The text itself is parsed later, in a child process (ml.retrieval).
"""

from __future__ import annotations

import hashlib
import io
import re
import unicodedata
from pathlib import PurePosixPath
from typing import IO, Any

from django.conf import settings

from ml.errors import DataError

ENDINGS = (".md", ".markdown", ".txt", ".text", ".pdf")
ACCEPTED = "Markdown (.md), plain text (.txt) and PDF (.pdf)"
MAX_DOCUMENT_BYTES = 75_000_000
_HEAD_BYTES = 4096
_PDF_WITHIN = 1024
_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_FOREIGN = {
    b"PK\x03\x04": "a zip or office file", b"\x89PNG": "a PNG picture", b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture", b"\x1f\x8b": "a gzip file", b"\x7fELF": "a program", b"MZ\x90": "a program",
    b"\xd0\xcf\x11\xe0": "an old office file", b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a RAR archive",
    b"SQLite format 3": "a database", b"{\\rtf": "an RTF file",
}  # fmt: skip


def limit_bytes() -> int:
    """Most bytes one document may have."""
    return min(MAX_DOCUMENT_BYTES, int(settings.MAX_UPLOAD_BYTES))


def safe_name(filename: Any) -> str:
    """The file's own name for people: no folders, no control or direction-changing characters, at most 120 long."""
    name = unicodedata.normalize("NFC", str(filename).encode("utf-8", "replace").decode("utf-8"))
    name = re.split(r"[/\\]", name)[-1]
    name = "".join(" " if c.isspace() else c for c in name)
    name = "".join(c for c in name if unicodedata.category(c)[0] != "C")
    name = re.sub(r" +", " ", name).strip(" .") or "document"
    path = PurePosixPath(name)
    return path.stem[: 120 - len(path.suffix)] + path.suffix if len(path.suffix) <= 10 else name[:120]


def as_stream(content: bytes | IO[bytes]) -> IO[bytes]:
    """Something to read from the start."""
    stream = io.BytesIO(content) if isinstance(content, bytes) else content
    stream.seek(0)
    return stream


def size_of(stream: IO[bytes]) -> int:
    """Bytes in the stream, which is left at its start."""
    n_bytes = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    return n_bytes


def sha256_of(stream: IO[bytes]) -> str:
    """sha256 (hex) of the stream, which is left at its start."""
    digest = hashlib.sha256()
    while piece := stream.read(1 << 20):
        digest.update(piece)
    stream.seek(0)
    return digest.hexdigest()


def _mismatch(filename: str, what: str) -> DataError:
    return DataError(
        f"{filename} is {what}, not what its name says.",
        hint=f"Add {ACCEPTED}, each with its own ending.", code="wrong_kind", status=415,
    )  # fmt: skip


def _check_head(filename: str, ending: str, head: bytes) -> None:
    is_pdf = b"%PDF-" in head[:_PDF_WITHIN]
    if ending == ".pdf":
        if not is_pdf:
            raise _mismatch(filename, "no PDF: it does not begin with %PDF-")
        return
    if is_pdf and head.lstrip()[:5] == b"%PDF-":
        raise _mismatch(filename, "a PDF")
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise _mismatch(filename, what)
    if not head.startswith(_BOMS) and head.count(0) > 0.01 * len(head) and not _is_wide(head):
        raise _mismatch(filename, "binary")


def _is_wide(head: bytes) -> bool:
    """Looks like UTF-16 without a mark: NULs at every other byte only."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    return max(even, odd) > 0.1 * len(head) and max(even, odd) > 10 * min(even, odd)


def check_file(filename: str, stream: IO[bytes]) -> None:
    """Raises DataError: unsupported or wrong kind (415), too large (413), empty (400). Leaves it at its start."""
    ending = PurePosixPath(filename).suffix.lower()
    if ending not in ENDINGS:
        raise DataError(
            f"{filename}: files ending in {ending or 'nothing'} cannot be read.",
            hint=f"Add {ACCEPTED}.", code="unsupported", status=415,
        )  # fmt: skip
    n_bytes = size_of(stream)
    if n_bytes == 0:
        raise DataError(f"{filename} is empty: it has 0 bytes.", hint="Save it again and add it anew.", code="empty")
    if n_bytes > limit_bytes():
        raise DataError(
            f"{filename} has {n_bytes / 1e6:,.0f} MB; a document may have {limit_bytes() / 1e6:,.0f} MB.",
            hint="Split it and add the parts.", code="too_large", status=413,
        )  # fmt: skip
    head = stream.read(_HEAD_BYTES)
    stream.seek(0)
    _check_head(filename, ending, head)
