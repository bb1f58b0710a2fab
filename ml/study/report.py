"""The reports of a study: one self-contained HTML file, Markdown, and CSV with a line a cell.

Made of study.json, board.json and the cells alone, so that they can be made again from what is kept. Every report holds
what its figures depend on: command, specs, seeds, versions. Each file is there whole or as it was before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ml.errors import StorageError
from ml.files import flush_file
from ml.study.report_csv import as_csv
from ml.study.report_html import as_html
from ml.study.report_markdown import as_markdown
from ml.study.told import Told, read_told

WRITERS: Mapping[str, Callable[[Told], str]] = {
    "report.html": as_html, "report.md": as_markdown, "report.csv": as_csv,
}  # fmt: skip


def write_reports(out: Path) -> list[Path]:
    """Writes report.html, report.md and report.csv into `out`, and gives their paths.

    Raises DataError when what they tell of cannot be read, StorageError when the disk refuses.
    """
    told = read_told(out)
    return [_write(out / name, write(told)) for name, write in WRITERS.items()]


def _write(path: Path, text: str) -> Path:
    draft = path.with_name(f".{path.name}")
    try:
        draft.write_text(text, encoding="utf-8", errors="replace", newline="")
        flush_file(draft)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StorageError(f"{path.name} could not be written: {error.strerror or error}.",
                           hint="Make room on the disk; the study itself is kept.") from error  # fmt: skip
    return path
