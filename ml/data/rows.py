"""Reading a data set folder: dataset.json and one JSONL file a split.

Guarantees: every row that comes out has messages and a completion; anything else is refused with the file, the line and
the row's number in the person's own file. The order of the training rows is a pure function of (seed, epoch, position).
Rows are small texts: a split is read whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ml.data.chat import Example, check_messages, example_ids
from ml.errors import DataError
from ml.specs.tasks import TASK_KINDS, learnt_as

SPLITS = ("train", "validation", "test")
_GROUPED_STEPS = 8


@dataclass(frozen=True, kw_only=True)
class Row:
    """One example as people see it."""

    number: int
    """1-based number in the source file."""
    messages: list[dict[str, str]]
    completion: str
    answers: tuple[str, ...] = ()
    """Every answer that counts as right, `completion` first; empty where it is the only one."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set version, read whole."""

    task: str
    """How it is learnt: `classification` or `generation`."""
    kind: str = ""
    """What the rows are for, a key of ml.specs.TASK_KINDS; metrics go by it. Empty: as `task` says."""
    labels: list[str]
    """Every possible completion of a classification task; empty for generation."""
    sha256: str
    """The version's content hash, as recorded in dataset.json."""
    content_sha256: str
    """sha256 of the bytes of the three split files, computed here."""
    splits: dict[str, list[Row]]


def read_dataset(folder: Path, *, expected_sha256: str = "") -> Dataset:
    """The data set in `folder`. Raises DataError naming the file and row that is wrong."""
    about = _read_about(Path(folder))
    sha256 = str(about.get("sha256", ""))
    if expected_sha256 and sha256 != expected_sha256:
        raise DataError(
            f"The data set in {folder} is version {sha256 or 'unknown'}, the spec asks for {expected_sha256}.",
            hint="Start the run again with the version that is there.",
            field="dataset_sha256",
        )
    labels = about.get("labels") or []
    splits = {split: list(_read_split(Path(folder) / f"{split}.jsonl")) for split in SPLITS}
    if not splits["train"]:
        raise DataError("The data set has no training rows.", hint="Give the training split at least one row.")
    if learnt_as(about["task"]) == "classification":
        _check_labels(labels, splits)
    return Dataset(
        task=learnt_as(about["task"]),
        kind=about["task"],
        labels=list(labels),
        sha256=sha256,
        content_sha256=content_sha256(Path(folder)),
        splits=splits,
    )


def content_sha256(folder: Path) -> str:
    """sha256 (hex) over the split files, in a fixed order."""
    digest = hashlib.sha256()
    for split in SPLITS:
        path = folder / f"{split}.jsonl"
        data = path.read_bytes() if path.is_file() else b""
        digest.update(f"{split} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.", hint="Import the data set again.") from error
    if not isinstance(about, dict) or about.get("task") not in TASK_KINDS:
        raise DataError(f"{path} does not say what task the data set is for.", hint="Import the data set again.")
    return about


def _read_split(path: Path) -> Iterator[Row]:
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line_number, line in enumerate(file, start=1):
            if line.strip():
                yield _parse(line, f"{path.name} line {line_number}")


def _parse(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line.decode("utf-8"))
    except ValueError as error:
        raise DataError(f"{where} is not valid JSON: {error}.", hint="Import the data set again.") from error
    if not isinstance(row, dict) or not isinstance(row.get("row"), int):
        raise DataError(f"{where} is not a row with a number: {row!r:.80}.", hint="Import the data set again.")
    where = f"{where} (row {row['row']})"
    completion = row.get("completion")
    if not isinstance(completion, str) or not completion.strip():
        raise DataError(f"{where} has no answer: completion is {completion!r:.80}.", field="completion")
    try:
        messages = check_messages(row.get("messages"))
    except DataError as error:
        raise DataError(f"{where}: {error.message}", hint=error.hint, field=error.field) from error
    if messages[-1]["role"] != "user":
        raise DataError(f"{where} must end in a user message, got {messages[-1]['role']}.", field="messages")
    answers = tuple(answer for answer in row.get("answers") or () if isinstance(answer, str))
    return Row(number=row["row"], messages=messages, completion=completion, answers=answers)


def _check_labels(labels: Any, splits: dict[str, list[Row]]) -> None:
    if not isinstance(labels, list) or len(labels) < 2 or not all(isinstance(label, str) and label for label in labels):
        raise DataError(f"A classification data set needs at least two labels, got {labels!r:.200}.", field="labels")
    known = set(labels)
    for split, rows in splits.items():
        for row in rows:
            if row.completion not in known:
                raise DataError(
                    f"{split}: row {row.number} has the label {row.completion!r:.80}, which is not among the labels.",
                    hint="Labels: " + ", ".join(labels)[:300],
                    field="labels",
                )


def check_every_label_is_taught(dataset: Dataset) -> None:
    """Raises DataError naming the labels that no training row has: a classifier cannot learn what it never sees."""
    seen = {row.completion for row in dataset.splits["train"]}
    unseen = [label for label in dataset.labels if label not in seen]
    if unseen:
        raise DataError(
            f"{len(unseen)} of {len(dataset.labels)} labels have no training row: {', '.join(unseen):.300}.",
            hint="Add rows for them, or take them out of the labels. A decoder model can answer with unseen labels.",
            field="labels",
        )


@contextmanager
def row_named(row: Row) -> Iterator[None]:
    """Puts the row's number in front of a DataError."""
    try:
        yield
    except DataError as error:
        raise DataError(f"Row {row.number}: {error.message}", hint=error.hint, field=error.field) from error


def encode_rows(rows: Sequence[Row], tokenizer: Any, max_length: int) -> list[Example]:
    """Token ids of every row. Raises DataError with the row's number."""
    examples = []
    for row in rows:
        with row_named(row):
            examples.append(example_ids(tokenizer, row.messages, row.completion, max_length))
    return examples


@lru_cache(maxsize=8)
def epoch_order(seed: int, epoch: int, n_rows: int) -> tuple[int, ...]:
    """The order in which an epoch visits the rows: by sha256 of (seed, epoch, row), so no library can change it."""

    def key(row: int) -> bytes:
        return hashlib.sha256(f"{seed}:{epoch}:{row}".encode()).digest()

    return tuple(sorted(range(n_rows), key=key))


def batch_rows(seed: int, step: int, batch_size: int, n_rows: int, lengths: Sequence[int] | None = None) -> list[int]:
    """Indices of the rows that optimizer step `step` (from 0) sees: the next `batch_size` of the endless order.

    With `lengths` (of all rows) the batches of `_GROUPED_STEPS` steps are made of rows of like length and come in an
    order drawn from the seed; over those steps the same rows are seen.
    """
    if lengths is None:
        return _endless(seed, step * batch_size, batch_size, n_rows)
    window, place = divmod(step, _GROUPED_STEPS)
    rows = _endless(seed, window * _GROUPED_STEPS * batch_size, _GROUPED_STEPS * batch_size, n_rows)
    rows.sort(key=lengths.__getitem__)
    chosen = epoch_order(seed, -1 - window, _GROUPED_STEPS)[place]
    return rows[chosen * batch_size : (chosen + 1) * batch_size]


def _endless(seed: int, first: int, n: int, n_rows: int) -> list[int]:
    places = (divmod(first + i, n_rows) for i in range(n))
    return [epoch_order(seed, epoch, n_rows)[position] for epoch, position in places]
