"""A first look at an upload: format, columns, row count, what cannot be read, a suggested mapping, the first rows.

One pass over the whole file with flat memory, so that counts are exact. Nothing is written. Does not apply a mapping
(`ml.data.version` does) and needs no model (`ml.data.preview` shows rows as one sees them).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml.data.formats import FORMAT_LABELS, Column, recognise, split_column, suggest_mapping
from ml.data.readers import Problem, read_rows
from ml.data.sniff import DELIMITER_NAMES, sniff
from ml.errors import DataError

N_HEAD = 20
N_PROBLEMS = 20
MAX_CELL = 8_000
"""Characters of a cell that are kept for the preview."""
MAX_KEYS = 512
FORMAT_NAMES = {"csv": "CSV", "tsv": "TSV", "jsonl": "JSON lines", "json": "JSON list", "parquet": "Parquet"}


def shortened(value: Any, limit: int = MAX_CELL) -> Any:
    """A JSON value whose texts and lists are cut, for pages."""
    if isinstance(value, str):
        return value if len(value) <= limit else value[: limit - 1] + "…"
    if isinstance(value, list):
        return [shortened(item, limit) for item in value[:50]]
    if isinstance(value, dict):
        return {key: shortened(item, limit) for key, item in list(value.items())[:256]}
    return value


def inspect_file(path: Path, *, filename: str, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """The report kept with an upload. Raises DataError when there is no row at all."""
    source = sniff(path, filename)
    columns: dict[str, Column] = {}
    head: list[dict[str, Any]] = []
    problems: list[Problem] = []
    n_rows = n_problems = 0
    for item in read_rows(source, progress=progress):
        if isinstance(item, Problem):
            n_problems += 1
            if len(problems) < N_PROBLEMS:
                problems.append(item)
            continue
        n_rows += 1
        if len(head) < N_HEAD:
            head.append({"row": item.number, "values": shortened(item.values)})
        for name, value in item.values.items():
            if name in columns or len(columns) < MAX_KEYS:
                columns.setdefault(name, Column(name=name)).see(value)
    if not n_rows and not n_problems:
        raise DataError(
            f"{filename} has a header but no rows.", hint="Give a file with at least one row.", code="empty_file"
        )
    kind = recognise([row["values"] for row in head])
    seen = list(columns.values())
    return {
        "format": source.format,
        "format_name": FORMAT_NAMES[source.format],
        "encoding": source.encoding,
        "delimiter": DELIMITER_NAMES.get(source.delimiter, ""),
        "n_rows": n_rows,
        "n_problems": n_problems,
        "problems": [problem.as_dict() for problem in problems],
        "recognised": kind,
        "recognised_name": FORMAT_LABELS[kind],
        "columns": [column.as_dict(n_rows) for column in seen],
        "mapping": suggest_mapping(kind, seen) if n_rows else {},
        "split_column": split_column(seen),
        "head": head,
    }
