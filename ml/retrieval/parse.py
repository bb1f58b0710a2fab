"""A document's bytes as clean text with page offsets: Markdown, plain text in any encoding, PDF.

Guarantees: the text holds no NUL, no lone surrogate and no other control character than tab and newline, so it can be
stored anywhere; `pages` are offsets into exactly that text; whatever cannot be read raises DataError saying what it is
(empty, encrypted, without text, damaged, too large). Hostile input is expected: call it through `ml.retrieval.child`,
which bounds time and memory. Does not read images (no OCR) and ignores attachments, scripts and annotations.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from ml.errors import DataError

KINDS = {".pdf": "pdf", ".md": "markdown", ".markdown": "markdown", ".txt": "text", ".text": "text"}
MAX_FILE_BYTES = 75_000_000
MAX_CHARACTERS = 20_000_000
_SNIFF_BYTES = 1 << 16
_FEW_CHARACTERS = 100
_FEW_LINES = 5
_ITEM = re.compile(r"\s*(?:[-•*–·▪]|\(?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,4})[.)])\s")
_SPACES = re.compile(r"[^\S\n]+\n")
_BLANK_LINES = re.compile(r"\n{4,}")
_LIGATURES = {ord("ﬀ"): "ff", ord("ﬁ"): "fi", ord("ﬂ"): "fl", ord("ﬃ"): "ffi", ord("ﬄ"): "ffl", 0x00AD: ""}
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"),
         (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """What a document says."""

    text: str
    pages: tuple[int, ...] = ()
    """Character offset at which each page starts; empty for formats without pages."""
    note: str = ""
    """What a reader should know though the document was read, e.g. that it looks like a scan."""


def kind_of(filename: str) -> str:
    """`pdf`, `markdown` or `text`, from the file name's ending. Raises DataError for any other."""
    ending = Path(filename).suffix.lower()
    if ending not in KINDS:
        raise DataError(
            f"{filename}: files ending in {ending or 'nothing'} cannot be read.",
            hint="Give Markdown (.md), plain text (.txt) or PDF (.pdf).",
            code="unsupported",
        )
    return KINDS[ending]


def clean(text: str) -> str:
    """`text` with one kind of newline, whole code points only, and no control characters."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n").replace("\ufeff", "")
    text = text.encode("utf-8", "replace").decode("utf-8")
    if not text.isprintable():
        text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cn", "Co", "Cs"))
    return text


def _encoding_of(data: bytes) -> str:
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return encoding
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    else:
        return "utf-8"
    from charset_normalizer import from_bytes

    found = from_bytes(data[:_SNIFF_BYTES])
    best = found.best()
    western = next((match for match in found if "cp1252" in match.could_be_from_charset), None)
    # Code pages of one byte a letter look alike; where Western European fits about as well, it is the likelier one.
    if best is None or (western and western.chaos <= 0.1 and western.coherence >= best.coherence - 0.05):
        return "cp1252"
    return best.encoding


def _utf16_without_mark(data: bytes) -> str:
    """`utf-16-le` or `-be` when every other byte is mostly NUL, as in Latin text; else nothing."""
    head = data[:_SNIFF_BYTES]
    half = len(head) // 2
    if half and head[1::2].count(0) > half * 0.4 and head[::2].count(0) < half * 0.1:
        return "utf-16-le"
    if half and head[::2].count(0) > half * 0.4 and head[1::2].count(0) < half * 0.1:
        return "utf-16-be"
    return ""


def decode(data: bytes, *, filename: str) -> str:
    """Bytes of a text file as text, whatever the encoding. Raises DataError when they are no text."""
    encoding = _utf16_without_mark(data) or _encoding_of(data)
    text = data.decode(encoding, errors="replace")
    sample = text[:100_000]
    n_odd = sum(1 for c in sample if c == "\ufffd" or (unicodedata.category(c) == "Cc" and c not in "\n\r\t\f"))
    if n_odd > max(8, 0.05 * len(sample)):
        raise DataError(
            f"{filename} holds no text: {n_odd} of its first {len(sample)} characters are not printable.",
            hint="If it is a PDF or an office file, give it its right ending or export it as PDF.",
            code="not_text",
        )
    return text


def _read_text(path: Path, *, filename: str) -> Parsed:
    return Parsed(text=clean(decode(path.read_bytes(), filename=filename)))


def page_text(raw: str) -> str:
    """A PDF page's text: plain ligatures, no trailing blanks, and lines put together to paragraphs."""
    text = _SPACES.sub("\n", clean(raw.translate(_LIGATURES)) + "\n")
    return _BLANK_LINES.sub("\n\n\n", unwrapped(text)).strip()


def unwrapped(text: str) -> str:
    """`text` with the line breaks taken out that only stand there because a line of print was full.

    A line is full when it reaches three quarters of the page's long lines; it goes on in the next one unless that
    begins an item of a list. So that a paragraph is cut into chunks at its sentences, not at its lines.
    """
    lines = text.split("\n")
    widths = sorted(len(line) for line in lines if line)
    if len(widths) < _FEW_LINES:
        return text
    full = 0.75 * widths[int(0.9 * (len(widths) - 1))]
    pieces: list[str] = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        goes_on = len(line) >= full and following.strip() and not _ITEM.match(following)
        pieces.append(line.rstrip() + " " if goes_on else line + "\n")
    return "".join(pieces)


def join_pages(pages: list[str], *, filename: str, has_images: bool) -> Parsed:
    """Pages put one after the other, each start kept. Raises DataError when there is no text on any."""
    offsets, pieces, position = [], [], 0
    for page in pages:
        offsets.append(position)
        pieces.append(page)
        position += len(page) + 2
    n_letters = sum(len(page) for page in pages)
    where = f"on its {len(pages)} pages" if len(pages) != 1 else "on its only page"
    if n_letters == 0:
        raise DataError(
            f"{filename} has no text {where}{', images only' if has_images else ''}.",
            hint="It is probably a scan. Run text recognition (OCR) on it, then add the file again.",
            code="no_text",
        )
    note = ""
    if has_images and n_letters < _FEW_CHARACTERS * len(pages):
        note = f"Only {n_letters} characters of text {where}: it may be a scan."
    return Parsed(text="\n\n".join(pieces), pages=tuple(offsets), note=note)


def parse(path: Path, *, filename: str) -> Parsed:
    """The document at `path`, whose kind is told by `filename`. Raises DataError when it cannot be read."""
    kind = kind_of(filename)
    n_bytes = path.stat().st_size
    if n_bytes == 0:
        raise DataError(f"{filename} is empty: it has 0 bytes.", hint="Save it again and add it anew.", code="empty")
    if n_bytes > MAX_FILE_BYTES:
        raise DataError(
            f"{filename} has {n_bytes / 1e6:.0f} MB; {MAX_FILE_BYTES / 1e6:.0f} MB can be read.",
            hint="Split the document and add the parts.",
            code="too_large",
        )
    if kind == "pdf":
        from ml.retrieval.pdf import read_pdf

        found = read_pdf(path, filename=filename)
    else:
        found = _read_text(path, filename=filename)
    if not found.text.strip():
        raise DataError(f"{filename} is empty: it holds blanks only.", hint="Add a file with text.", code="empty")
    if len(found.text) > MAX_CHARACTERS:
        raise DataError(
            f"{filename} has {len(found.text):,} characters of text; {MAX_CHARACTERS:,} can be read.",
            hint="Split the document and add the parts.",
            code="too_large",
        )
    return found
