"""Which split a row belongs to: as a column says, at random, or at random with every label evenly represented.

Guarantees: for the same rows, shares and seed the result is the same on every machine; rows with the same prompt never
part, so a random or stratified split cannot leak. Rounding favours training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml.errors import SpecError

SPLITS = ("train", "validation", "test")
KINDS = ("column", "random", "stratified")
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


def draw_splits(groups: Sequence[bytes], labels: Sequence[int], spec: SplitSpec, seed: int) -> list[int]:
    """Index in SPLITS for each row.

    `groups` has a key per row: equal keys go to the same split. `labels` has a class per row, all 0 where there are
    none; only kind `stratified` looks at it.
    """
    first: dict[bytes, int] = {}
    members: dict[bytes, int] = {}
    for position, group in enumerate(groups):
        first.setdefault(group, position)
        members[group] = members.get(group, 0) + 1
    strata: dict[int, list[bytes]] = {}
    for group, position in first.items():
        strata.setdefault(labels[position] if spec.kind == "stratified" else 0, []).append(group)
    chosen: dict[bytes, int] = {}
    shares, owed = {1: spec.validation, 2: spec.test}, {1: 0.0, 2: 0.0}
    for stratum in strata.values():
        stratum.sort(key=lambda group: hashlib.sha256(f"{seed}:".encode() + group).digest())
        n_rows = sum(members[group] for group in stratum)
        for split, share in shares.items():
            owed[split] += share * n_rows
        # What rounding withholds from one label is owed by the next, so the shares hold over all labels together.
        taken = _deal(stratum, members, {split: int(n + 0.5) for split, n in owed.items()}, chosen)
        owed = {split: n - taken[split] for split, n in owed.items()}
    return [chosen[group] for group in groups]


def _deal(
    stratum: Sequence[bytes], members: Mapping[bytes, int], wanted: Mapping[int, int], chosen: dict[bytes, int]
) -> dict[int, int]:
    """Fills test, then validation; the rest, at least one group, is for training. Returns the rows dealt a split."""
    left = dict(wanted)
    for place, group in enumerate(stratum):
        is_last = place == len(stratum) - 1
        goal = next((split for split in (2, 1) if left[split] >= members[group] and not is_last), 0)
        # The last group of a stratum is for training unless training has one already.
        if is_last and any(chosen[other] == 0 for other in stratum[:-1]):
            goal = next((split for split in (2, 1) if left[split] >= members[group]), 0)
        chosen[group] = goal
        if goal:
            left[goal] -= members[group]
    return {split: wanted[split] - left[split] for split in wanted}
