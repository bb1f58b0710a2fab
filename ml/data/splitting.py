"""Which split a row belongs to: as a column or its file says, at random, or at random with every label evenly
represented.

Guarantees: for the same rows, shares and seed the result is the same on every machine; rows with the same prompt never
part, so a random or stratified split cannot leak. Rounding favours training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.data.tally import SPLITS
from ml.errors import SpecError

__all__ = ["SPLITS", "SplitSpec", "check_splits", "draw_splits", "split_named"]
Numbers = np.ndarray[Any, Any]
KINDS = ("column", "files", "random", "stratified")
GIVEN = ("column", "files")
"""Kinds that are read, not drawn."""
NAMES = {
    "train": 0, "training": 0, "validation": 1, "valid": 1, "val": 1, "dev": 1, "eval": 1, "test": 2, "testing": 2,
}  # fmt: skip
_KEYS = ("kind", "column", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class SplitSpec:
    """How to split."""

    kind: str = "stratified"
    column: str = ""
    """Only for kind `column`."""
    validation: float = 0.1
    """Share of the rows, 0 to 0.9."""
    test: float = 0.1


def check_splits(given: Any, columns: Sequence[str]) -> SplitSpec:
    """A SplitSpec. Raises SpecError naming the field and the value received."""
    if not isinstance(given, Mapping):
        raise SpecError(f"splits must be an object, got {type(given).__name__}.", field="splits")
    unknown = sorted(set(given) - set(_KEYS))
    if unknown:
        raise SpecError(f"Unknown keys in splits: {', '.join(unknown)}.", field=unknown[0],
                        hint="Known: " + ", ".join(_KEYS) + ".")  # fmt: skip
    kind = given.get("kind", "stratified")
    if kind not in KINDS:
        raise SpecError(f"A split is one of {', '.join(KINDS)}, got {kind!r}.", field="kind")
    if kind == "column":
        column = given.get("column")
        if column not in columns:
            raise SpecError(f"There is no column {column!r} that could say the split.", field="column",
                            hint="Columns: " + ", ".join(columns[:20]) + ".")  # fmt: skip
        return SplitSpec(kind=kind, column=str(column), validation=0.0, test=0.0)
    if kind == "files":
        return SplitSpec(kind=kind, validation=0.0, test=0.0)
    shares = {name: _share(given.get(name, 0.1), name) for name in ("validation", "test")}
    if sum(shares.values()) > 0.9:
        raise SpecError(f"Validation and test take {sum(shares.values()):.0%} of the rows.", field="test",
                        hint="Leave at least 10 % for training.")  # fmt: skip
    return SplitSpec(kind=str(kind), validation=shares["validation"], test=shares["test"])


def _share(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 0.9:
        raise SpecError(f"The share of {name} must lie between 0 and 0.9, got {value!r}.", field=name)
    return float(value)


def split_named(value: str) -> int | None:
    """Index in SPLITS of what a split column says; None for a word that is no split."""
    return NAMES.get(value.strip().lower())


def draw_splits(groups: Numbers, labels: Numbers, spec: SplitSpec, seed: int) -> Numbers:
    """Index in SPLITS for each row, as bytes.

    `groups` has a 64-bit key per row: equal keys go to the same split. `labels` has a class per row, all 0 where there
    are none; only kind `stratified` looks at it.
    """
    keys, first, group_of, members = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    strata = labels[first] if spec.kind == "stratified" else np.zeros(len(keys), np.uint32)
    order = np.lexsort((_shuffled(keys, seed), strata))
    cuts = np.flatnonzero(np.diff(strata[order])) + 1
    chosen = np.zeros(len(keys), np.uint8)
    shares, owed = {1: spec.validation, 2: spec.test}, {1: 0.0, 2: 0.0}
    for stratum in np.split(order, cuts):
        sizes = members[stratum]
        n_rows = int(sizes.sum())
        for split, share in shares.items():
            owed[split] += share * n_rows
        # What rounding withholds from one label is owed by the next, so the shares hold over all labels together.
        wanted = {split: int(n + 0.5) for split, n in owed.items()}
        dealt = _deal_singles(len(stratum), wanted) if n_rows == len(stratum) else _deal(sizes.tolist(), wanted)
        chosen[stratum] = dealt
        owed = {split: n - int(sizes[dealt == split].sum()) for split, n in owed.items()}
    return chosen[group_of]


def _shuffled(keys: Numbers, seed: int) -> Numbers:
    """A place in a random order for each key: splitmix64, whole numbers only, so it is the same everywhere."""
    start = int.from_bytes(hashlib.sha256(f"split {seed}".encode()).digest()[:8], "little")
    mixed = keys.astype(np.uint64) ^ np.uint64(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _deal_singles(n: int, wanted: Mapping[int, int]) -> Numbers:
    """As `_deal` for `n` groups of one row each."""
    n_test = min(wanted[2], n - 1)
    n_validation = min(wanted[1], n - 1 - n_test)
    return np.repeat(np.array([2, 1, 0], np.uint8), [n_test, n_validation, n - n_test - n_validation])


def _deal(sizes: Sequence[int], wanted: Mapping[int, int]) -> Numbers:
    """Fills test, then validation; the rest, at least one group, is for training."""
    left = dict(wanted)
    dealt = np.zeros(len(sizes), np.uint8)
    has_training = False
    for place, size in enumerate(sizes):
        # The last group of a stratum is for training unless training has one already.
        is_owed = place == len(sizes) - 1 and not has_training
        goal = 0 if is_owed else next((split for split in (2, 1) if left[split] >= size), 0)
        dealt[place] = goal
        has_training = has_training or not goal
        if goal:
            left[goal] -= size
    return dealt
