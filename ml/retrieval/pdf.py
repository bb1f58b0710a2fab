"""Text of a PDF by page, through pypdf. Runs inside the child process that `ml.retrieval.child` bounds and kills."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pypdf
from pypdf.errors import DependencyError, LimitReachedError

from ml.errors import DataError
from ml.retrieval.parse import Parsed, join_pages, page_text

MAX_PAGES = 5000
TOO_MUCH_TEXT = "PDF exceeds 75 MB decoded / 30 s"
_HEADER_WITHIN = 1024

logger = logging.getLogger(__name__)


def _damaged(filename: str, why: object) -> DataError:
    return DataError(
        f"{filename} is damaged and cannot be read as PDF ({why}).",
        hint="Open it in a PDF reader, print or save it as a new PDF, and add that one.",
        code="damaged",
    )


def over_limit(filename: str) -> DataError:
    return DataError(
        f"{filename}: {TOO_MUCH_TEXT}.",
        hint="Split the document, or print it as a new PDF, and add that one.",
        code="too_large",
    )


def _open(path: Path, *, filename: str) -> Any:
    with path.open("rb") as file:
        if b"%PDF-" not in file.read(_HEADER_WITHIN):
            raise _damaged(filename, "it does not begin with %PDF-")
    reader = pypdf.PdfReader(path)
    try:
        is_locked = reader.is_encrypted and not reader.decrypt("")
    except (DependencyError, NotImplementedError) as error:
        raise DataError(
            f"{filename} is encrypted in a way that cannot be opened ({error}).",
            hint="Save a copy without encryption and add that one.",
            code="encrypted",
        ) from error
    if is_locked:
        raise DataError(
            f"{filename} is encrypted with a password.",
            hint="Save a copy without the password and add that one.",
            code="encrypted",
        )
    return reader


def _has_images(page: Any) -> bool:
    """True when the page draws anything besides text: pictures, or forms that may hold some."""
    resources = page.get("/Resources")
    return bool(resources and resources.get_object().get("/XObject"))


def _pages(reader: Any, *, filename: str) -> list[str]:
    n_pages = len(reader.pages)
    if n_pages > MAX_PAGES:
        raise DataError(
            f"{filename} has {n_pages:,} pages; {MAX_PAGES:,} can be read.",
            hint="Split the document and add the parts.",
            code="too_large",
        )
    if n_pages == 0:
        raise _damaged(filename, "it has no pages")
    return [page_text(page.extract_text()) for page in reader.pages]


def read_pdf(path: Path, *, filename: str) -> Parsed:
    """Raises DataError: encrypted, damaged, too large, or without text."""
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    try:
        reader = _open(path, filename=filename)
        pages = _pages(reader, filename=filename)
        has_images = any(_has_images(page) for page in reader.pages)
    except DataError:
        raise
    except (LimitReachedError, MemoryError) as error:
        raise over_limit(filename) from error
    except Exception as error:
        # A damaged file makes pypdf fail in any way that Python code can; all of them mean the same to its owner.
        logger.info("pypdf failed: %s", type(error).__name__)
        raise _damaged(filename, f"{type(error).__name__}: {str(error)[:120]}".rstrip(": ")) from error
    return join_pages(pages, filename=filename, has_images=has_images)
