"""PDFs written by hand, so that tests need no files: with text, without, encrypted, damaged, looping, bloated."""

from __future__ import annotations

import io
import zlib

from pypdf import PdfReader, PdfWriter


def _pdf(objects: list[bytes]) -> bytes:
    """A PDF of numbered objects, the first of which is the catalog."""
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    tail = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(out))
    return out + head + table + tail


def _stream(data: bytes, *, packed: bool = False) -> bytes:
    extra = b" /Filter /FlateDecode" if packed else b""
    data = zlib.compress(data, 9) if packed else data
    return b"<< /Length %d%s >>\nstream\n%s\nendstream" % (len(data), extra, data)


def pdf_with(pages: list[str]) -> bytes:
    """One line of Helvetica a page; an empty string is an empty page."""
    contents = [f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode() if text else b"" for text in pages]
    return pdf_with_contents(contents)


def pdf_with_contents(contents: list[bytes], *, packed: bool = False) -> bytes:
    kids = b" ".join(b"%d 0 R" % (4 + 2 * i) for i in range(len(contents)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(contents)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, content in enumerate(contents):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % (5 + 2 * i)
        )
        objects.append(_stream(content, packed=packed))
    return _pdf(objects)


def encrypted_pdf(password: str) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf_with(["Secret."]))))
    writer.encrypt(password, algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def bomb_pdf(n_bytes: int) -> bytes:
    """A page whose packed content grows to `n_bytes`."""
    return pdf_with_contents([b" " * n_bytes], packed=True)


def cyclic_pdf() -> bytes:
    """A page tree that has itself as a child."""
    return _pdf(
        [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 2 /Parent 2 0 R >>"]
    )
