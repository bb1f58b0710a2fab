"""From a file and a mapping to an immutable data set folder, in one pass over the file and one over a spool beside it.

Guarantees: memory grows by some 300 bytes a row, whatever the rows hold; nothing is left out silently (rows that cannot
be used refuse the whole file with their numbers, unless `leave_out` was asked for, and then they are counted); the
folder appears whole; its sha256 is over everything that training reads, so equal content has an equal name. At most one
million rows. The folder holds dataset.json, one JSONL file a split, and report.json for people.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ml.data.mapping import Mapped, as_text, check_mapping, map_row
from ml.data.mapping import Mapping as RowMapping
from ml.data.readers import Problem, Row, read_rows, shown
from ml.data.report import Tally, count_labels, count_lengths, count_repeats, digest, prompt_key, warnings_of
from ml.data.sniff import Source
from ml.data.splitting import SPLITS, SplitSpec, check_splits, draw_splits, split_named
from ml.errors import DataError

MAX_ROWS = 1_000_000
MAX_LABELS = 2_000
MAX_SHOWN = 20
N_SAMPLES = 20


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
    """Leave rows out of train whose prompt is also held out; only for splits given by a column."""


@dataclass(kw_only=True)
class _Pass:
    """What the first pass collects."""

    tally: Tally = field(default_factory=Tally)
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    label_of: array[int] = field(default_factory=lambda: array("L"))
    given: array[int] = field(default_factory=lambda: array("B"))
    labels: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    n_problems: int = 0
    n_empty: int = 0
    n_rows: int = 0
    n_dropped: int = 0
    lengths: Counter[int] = field(default_factory=Counter)

    def refuse(self, problem: Problem) -> None:
        self.n_problems += 1
        self.n_empty += problem.kind == "empty"
        if len(self.problems) < MAX_SHOWN:
            self.problems.append(problem)


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
    source: Source, recipe: Recipe, out: Path, *, progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Writes the data set folder `out` and returns its report. Raises SpecError, DataError or RowsError."""
    columns = columns_of(source)
    mapping = check_mapping(recipe.mapping, columns)
    splits = check_splits(recipe.splits, columns)
    out.mkdir(parents=True, exist_ok=True)
    spool_path = out.parent / f"{out.name}.spool"
    try:
        with spool_path.open("w+b") as spool:
            seen = _read_all(source, mapping, splits, recipe, spool, progress)
            _refuse_problems(seen, recipe)
            _assign_splits(seen, splits, recipe)
            counts = _write_splits(seen, spool, out)
        return _finish(seen, counts, mapping, splits, recipe, columns, out)
    finally:
        spool_path.unlink(missing_ok=True)


def _read_all(
    source: Source, mapping: RowMapping, splits: SplitSpec, recipe: Recipe, spool: IO[bytes],
    progress: Callable[[int], None] | None,
) -> _Pass:  # fmt: skip
    seen = _Pass()
    firsts: set[bytes] = set()
    for item in read_rows(source, progress=progress):
        seen.n_rows += 1
        if seen.n_rows > MAX_ROWS:
            raise DataError(f"The file has more than {MAX_ROWS:,} rows.", hint="Cut it into several data sets.")
        mapped = map_row(mapping, item) if isinstance(item, Row) else item
        split = _given_split(item, splits) if isinstance(mapped, Mapped) and isinstance(item, Row) else 0
        if isinstance(mapped, Problem) or isinstance(split, Problem):
            seen.refuse(mapped if isinstance(mapped, Problem) else split)  # type: ignore[arg-type]
            continue
        prompt, completion = prompt_key(mapped.messages), digest(mapped.completion)
        if recipe.drop_duplicates:
            if prompt + completion in firsts:
                seen.n_dropped += 1
                continue
            firsts.add(prompt + completion)
        _keep(seen, mapped, prompt, completion, split, mapping.task, spool)
    return seen


def _keep(
    seen: _Pass, mapped: Mapped, prompt: bytes, completion: bytes, split: int, task: str, spool: IO[bytes]
) -> None:
    label = 0
    if task == "classification":
        label = seen.labels.setdefault(mapped.completion, len(seen.labels))
        if len(seen.labels) > MAX_LABELS:
            raise DataError(f"There are more than {MAX_LABELS:,} different labels.", field="task",
                            hint="For free text choose the task “generation”.")  # fmt: skip
    seen.tally.add(mapped.row, prompt, completion)
    seen.offsets.append(spool.tell())
    seen.label_of.append(label)
    seen.given.append(split)
    seen.lengths[sum(len(m["content"]) for m in mapped.messages) + len(mapped.completion)] += 1
    row = {"row": mapped.row, "messages": mapped.messages, "completion": mapped.completion}
    spool.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _given_split(row: Row, splits: SplitSpec) -> int | Problem:
    if splits.kind != "column":
        return 0
    word = as_text(row.values.get(splits.column))
    split = split_named(word)
    if split is not None:
        return split
    return Problem(
        row=row.number, column=splits.column, received=shown(word) or "(empty)", kind="split",
        message=f"Row {row.number} is in no known split.", hint="Use train, validation or test.",
    )  # fmt: skip


def _refuse_problems(seen: _Pass, recipe: Recipe) -> None:
    n_good = len(seen.offsets)
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


def _assign_splits(seen: _Pass, splits: SplitSpec, recipe: Recipe) -> None:
    if splits.kind == "column":
        chosen = list(seen.given)
        if recipe.drop_leaks:
            held = {key for key, split in zip(seen.tally.prompts, chosen, strict=True) if split}
            for place, key in enumerate(seen.tally.prompts):
                if chosen[place] == 0 and key in held:
                    chosen[place] = len(SPLITS)
                    seen.n_dropped += 1
    else:
        chosen = draw_splits(seen.tally.prompts, seen.label_of, splits, recipe.seed)
    seen.tally.splits = chosen
    if 0 not in chosen:
        raise DataError(
            "No row is left for training.",
            hint="Give train at least one row: use smaller shares, or name rows “train” in the split column.",
            code="no_train_rows",
        )


def _write_splits(seen: _Pass, spool: IO[bytes], out: Path) -> dict[str, int]:
    counts = dict.fromkeys(SPLITS, 0)
    spool.seek(0)
    files = [(out / f"{split}.jsonl").open("wb") for split in SPLITS]
    try:
        for line, split in zip(spool, seen.tally.splits, strict=True):
            if split < len(SPLITS):
                files[split].write(line)
                counts[SPLITS[split]] += 1
    finally:
        for file in files:
            file.close()
    return counts


def _finish(
    seen: _Pass, counts: dict[str, int], mapping: RowMapping, splits: SplitSpec, recipe: Recipe, columns: list[str],
    out: Path,
) -> dict[str, Any]:  # fmt: skip
    by_label: dict[str, list[int]] = {label: [0, 0, 0] for label in seen.labels}
    names = list(seen.labels)
    for label, split in zip(seen.label_of, seen.tally.splits, strict=True):
        if names and split < len(SPLITS):
            by_label[names[label]][split] += 1
    by_label = {label: n for label, n in by_label.items() if sum(n)}
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
        "n_dropped": seen.n_dropped,
        "empties": seen.n_empty,
        "left_out": [problem.as_dict() for problem in seen.problems],
        **count_repeats(_kept(seen.tally)),
        "labels": count_labels(by_label),
        "characters": count_lengths(seen.lengths),
        "split": {"kind": splits.kind, "column": splits.column, "seed": recipe.seed,
                  "validation": splits.validation, "test": splits.test},
        "samples": _samples(out),
    }  # fmt: skip
    report["warnings"] = warnings_of(report, mapping.task)
    (out / "dataset.json").write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")
    (out / "report.json").write_text(json.dumps(report, ensure_ascii=False), encoding="utf-8")
    return {**report, "sha256": about["sha256"]}


def _kept(tally: Tally) -> Tally:
    if len(SPLITS) not in tally.splits:
        return tally
    places = [place for place, split in enumerate(tally.splits) if split < len(SPLITS)]
    return Tally(
        numbers=[tally.numbers[p] for p in places], prompts=[tally.prompts[p] for p in places],
        completions=[tally.completions[p] for p in places], splits=[tally.splits[p] for p in places],
    )  # fmt: skip


def _samples(out: Path) -> list[dict[str, Any]]:
    """The first rows of train, shortened for a page."""
    rows = []
    with (out / "train.jsonl").open(encoding="utf-8") as file:
        for line, _ in zip(file, range(N_SAMPLES), strict=False):
            row = json.loads(line)
            row["messages"] = [{**m, "content": m["content"][:4000]} for m in row["messages"]]
            row["completion"] = row["completion"][:4000]
            rows.append(row)
    return rows


def content_hash(about: Mapping[str, Any], folder: Path) -> str:
    """sha256 (hex) over task, labels, columns, mapping and the bytes of the split files."""
    whole = hashlib.sha256(json.dumps(about, sort_keys=True, ensure_ascii=False).encode())
    for split in SPLITS:
        with (folder / f"{split}.jsonl").open("rb") as file:
            whole.update(f"\n{split} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return whole.hexdigest()
