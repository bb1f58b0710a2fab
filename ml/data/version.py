"""From files and a mapping to an immutable data set folder, in one pass over them and one over a spool beside it.

Guarantees: memory grows by some 120 bytes a row (150 MB in all for a million), whatever the rows hold; nothing is left
out silently (rows that cannot be used refuse the whole file with their numbers, unless `leave_out` was asked for, and
then they are counted); the folder appears whole; its sha256 is over everything that training reads, so equal content
has an equal name. At most one million rows. The folder holds dataset.json, one JSONL file a split, keys.npy for the
comparison with other versions, and report.json for people.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ml.data.collect import MAX_LABELS, MAX_ROWS, Part, Seen, read_all
from ml.data.folder import content_hash, first_rows, write_splits
from ml.data.mapping import Mapping as RowMapping
from ml.data.mapping import check_mapping
from ml.data.readers import Row, read_rows
from ml.data.report import count_labels, count_lengths, warnings_of
from ml.data.sniff import Source
from ml.data.splitting import GIVEN, SPLITS, SplitSpec, check_splits, draw_splits
from ml.data.tally import as_numbers, count_by_label, count_repeats, first_of_equals, leaks_dropped, write_keys
from ml.errors import DataError, SpecError

__all__ = ["MAX_LABELS", "MAX_ROWS", "Part", "Recipe", "RowsError", "build_version"]


class RowsError(DataError):
    """Rows that cannot be used: up to 20 of them with their numbers, and how many there are."""

    code = "bad_rows"

    def __init__(self, message: str, *, problems: list[dict[str, Any]], n_problems: int, n_rows: int, hint: str = ""):
        super().__init__(message, hint=hint)
        self.problems, self.n_problems, self.n_rows = problems, n_problems, n_rows

    def as_dict(self) -> dict[str, Any]:
        counts = {"problems": self.problems, "n_problems": self.n_problems, "n_rows": self.n_rows}
        return {**super().as_dict(), **counts}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a version is made of a file."""

    mapping: dict[str, Any]
    splits: dict[str, Any]
    seed: int = 17
    leave_out: bool = False
    """Leave out rows that cannot be used instead of refusing the file."""
    drop_duplicates: bool = False
    """Keep only the first of rows with the same prompt and completion."""
    drop_leaks: bool = False
    """Leave rows out of train whose prompt is also held out; only for given splits."""


def columns_of(source: Source, limit: int = 1000) -> list[str]:
    """Every column name in the first rows."""
    names: dict[str, None] = {}
    for count, item in enumerate(read_rows(source)):
        if isinstance(item, Row):
            names.update(dict.fromkeys(item.values))
        if count >= limit:
            break
    return list(names)


def build_version(
    source: Source, recipe: Recipe, out: Path, *, others: Sequence[Part] = (),
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Writes the data set folder `out` and returns its report. `others` are the files of held-out rows, where the
    splits are given by files. Raises SpecError, DataError or RowsError."""
    columns = columns_of(source)
    mapping = check_mapping(recipe.mapping, columns)
    splits = check_splits(recipe.splits, columns)
    _check_parts(splits, others)
    parts = (Part(source=source, split=SPLITS[0], name=source.path.name), *others)
    out.mkdir(parents=True, exist_ok=True)
    spool_path = out.parent / f"{out.name}.spool"
    try:
        with spool_path.open("w+b") as spool:
            seen = read_all(parts, mapping, splits, spool, progress)
            _refuse_problems(seen, recipe)
            n_dropped = _assign_splits(seen, splits, recipe)
            return _finish(seen, n_dropped, spool, mapping, splits, recipe, columns, out)
    finally:
        spool_path.unlink(missing_ok=True)


def _check_parts(splits: SplitSpec, others: Sequence[Part]) -> None:
    if (splits.kind == "files") != bool(others):
        raise SpecError(f"Splits of kind {splits.kind} come with {len(others)} further files.", field="splits",
                        hint="Splits given by files have a file for validation, for test, or for both.")  # fmt: skip
    for part in others:
        if part.split not in SPLITS[1:]:
            raise SpecError(f"A further file is for validation or test, got {part.split!r}.", field="splits")


def _refuse_problems(seen: Seen, recipe: Recipe) -> None:
    n_good = len(seen.tally)
    if seen.n_problems and (not recipe.leave_out or not n_good):
        raise RowsError(
            f"{seen.n_problems:,} of {seen.n_rows:,} rows cannot be used.",
            problems=[problem.as_dict() for problem in seen.problems],
            n_problems=seen.n_problems,
            n_rows=seen.n_rows,
            hint="Repair the rows, or leave them out." if n_good else "Check the columns and the format of the file.",
        )
    if not n_good:
        raise DataError("The file has no rows.", hint="Give a file with at least one row besides the header.")


def _assign_splits(seen: Seen, splits: SplitSpec, recipe: Recipe) -> int:
    """Fills the tally's splits; returns how many rows were dropped as asked."""
    tally, n_dropped = seen.tally, 0
    keep = first_of_equals(tally) if recipe.drop_duplicates else np.ones(len(tally), bool)
    tally.splits = np.full(len(tally), len(SPLITS), np.uint8)
    if splits.kind in GIVEN:
        tally.splits[keep] = as_numbers(seen.given)[keep]
        n_dropped = leaks_dropped(tally) if recipe.drop_leaks else 0
    else:
        labels = as_numbers(tally.labels) if len(tally.labels) else np.zeros(len(tally), np.uint32)
        groups = as_numbers(tally.groups if len(tally.groups) else tally.prompts)
        tally.splits[keep] = draw_splits(groups[keep], labels[keep], splits, recipe.seed)
    if not (tally.splits == 0).any():
        raise DataError(
            "No row is left for training.",
            hint="Give train at least one row: use smaller shares, or name rows “train” in the split column.",
            code="no_train_rows",
        )
    return n_dropped + int((~keep).sum())


def _finish(
    seen: Seen, n_dropped: int, spool: IO[bytes], mapping: RowMapping, splits: SplitSpec, recipe: Recipe,
    columns: list[str], out: Path,
) -> dict[str, Any]:  # fmt: skip
    """Writes the folder's files and returns the report."""
    by_label = count_by_label(seen.tally, list(seen.labels)) if seen.labels else {}
    counts = write_splits(spool, seen.tally, out)
    about: dict[str, Any] = {
        "schema": 1,
        "task": mapping.task,
        "labels": sorted(by_label) if mapping.task == "classification" else None,
        "columns": columns,
        "mapping": mapping.as_dict(),
        "splits": counts,
    }
    about["sha256"] = content_hash(about, out)
    report: dict[str, Any] = {
        "splits": counts,
        "n_rows": seen.n_rows,
        "n_left_out": seen.n_problems,
        "n_dropped": n_dropped,
        "empties": seen.n_empty,
        "left_out": [problem.as_dict() for problem in seen.problems],
        **count_repeats(seen.tally),
        "labels": count_labels(by_label),
        "characters": count_lengths(seen.lengths),
        "split": {"kind": splits.kind, "column": splits.column, "seed": recipe.seed,
                  "validation": splits.validation, "test": splits.test},
        "samples": first_rows(out),
    }  # fmt: skip
    report["warnings"] = warnings_of(report, mapping.task)
    write_keys(seen.tally, out)
    (out / "dataset.json").write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")
    (out / "report.json").write_text(json.dumps(report, ensure_ascii=False), encoding="utf-8")
    return {**report, "sha256": about["sha256"]}
