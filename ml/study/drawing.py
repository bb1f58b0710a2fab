"""Which rows a study uses: as many of each split as its spec allows, and nested shares of the training rows.

The training rows are put into one order that their content alone fixes, in which every beginning has the labels in
proportion and the first of each label come first. Whatever number of rows is asked for is a beginning of that order, so
that 10 % of the rows are among the 30 %. Validation and test rows are their splits' first ones, as in evaluations.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from ml.data.rows import Dataset, Row
from ml.errors import DataError
from ml.specs.study import StudySpec


def drawn(dataset: Dataset, spec: StudySpec) -> Dataset:
    """The data set with the rows that the study uses. Raises DataError when a split that it needs is empty."""
    for split in ("validation", "test"):
        if not dataset.splits[split] and (split == "test" or spec.n_tries > 1):
            what = "is measured on" if split == "test" else "chooses learning rates by"
            raise DataError(f"A study {what} the {split} rows, and this data set has none.",
                            hint="Make a version with such a split.", field="dataset")  # fmt: skip
    train = in_order(dataset.splits["train"], by_label=bool(dataset.labels))
    chosen = {
        "train": train[: spec.train_rows or None],
        "validation": dataset.splits["validation"][: spec.valid_rows],
        "test": dataset.splits["test"][: spec.test_rows],
    }
    return replace(dataset, splits=chosen, content_sha256=_name(dataset.content_sha256, chosen))


def share_of(dataset: Dataset, share: float) -> Dataset:
    """The same with a share of the training rows, at least one of them."""
    if share >= 1:
        return dataset
    train = dataset.splits["train"]
    splits = {**dataset.splits, "train": train[: max(1, round(share * len(train)))]}
    return replace(dataset, splits=splits, content_sha256=_name(dataset.content_sha256, splits))


def in_order(rows: Sequence[Row], *, by_label: bool) -> list[Row]:
    """The rows by their rank within their label, as a share of the label's rows; equal ones by their content's hash."""
    groups: dict[str, list[tuple[str, Row]]] = {}
    for row in rows:
        groups.setdefault(row.completion if by_label else "", []).append((_print_of(row), row))
    placed = []
    for group in groups.values():
        ranked = sorted(group, key=lambda pair: pair[0])
        placed += [(rank / len(ranked), name, row) for rank, (name, row) in enumerate(ranked)]
    return [row for _, _, row in sorted(placed, key=lambda found: found[:2])]


def _print_of(row: Row) -> str:
    whole = json.dumps([row.messages, row.completion, row.number], ensure_ascii=False)
    return hashlib.sha256(whole.encode()).hexdigest()


def _name(before: str, splits: dict[str, list[Row]]) -> str:
    counts = {split: [row.number for row in rows] for split, rows in splits.items()}
    return hashlib.sha256(f"{before} {json.dumps(counts, sort_keys=True)}".encode()).hexdigest()
