"""What is remembered of every row while a version is made: 30 bytes each, in flat arrays.

Rows are told apart by 8-byte digests: with a million rows, two different ones are taken for the same once in some
thirty million files. Prompts and completions count as the same when they differ in case and white space only; `exact`
keeps the difference, for the comparison of versions.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SPLITS = ("train", "validation", "test")
N_EXAMPLES = 10
KEYS_FILE = "keys.npy"
"""In a version's folder: a record a row, in the order of its split files. Made from them, so outside its hash."""
KEYS = np.dtype([("prompt", "<u8"), ("exact", "<u8"), ("split", "u1")])


def digest(text: str) -> int:
    """64 bits that are equal for texts that differ in case and white space only."""
    return exact_digest(" ".join(text.casefold().split()).encode())


def exact_digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


@dataclass(kw_only=True)
class Tally:
    """A row in each array, in the order of the file."""

    numbers: array[int] = field(default_factory=lambda: array("I"))
    """The row's number in the file."""
    prompts: array[int] = field(default_factory=lambda: array("Q"))
    completions: array[int] = field(default_factory=lambda: array("Q"))
    exact: array[int] = field(default_factory=lambda: array("Q"))
    labels: array[int] = field(default_factory=lambda: array("I"))
    groups: array[int] = field(default_factory=lambda: array("Q"))
    """Only for conversations cut into several rows: what may not part, where that is more than the prompt."""
    splits: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0, np.uint8))
    """Index in SPLITS; len(SPLITS) for rows that are dropped. Empty until they are assigned."""

    def __len__(self) -> int:
        return len(self.numbers)

    def keep(self) -> np.ndarray[Any, Any]:
        """Places of the rows that are not dropped."""
        return np.flatnonzero(self.splits < len(SPLITS))


def as_numbers(values: array[int]) -> np.ndarray[Any, Any]:
    """The array's own memory as numpy sees it."""
    return np.frombuffer(values, dtype=f"u{values.itemsize}") if len(values) else np.zeros(0, f"u{values.itemsize}")


def count_repeats(tally: Tally) -> dict[str, Any]:
    """Duplicates (same prompt, same completion), contradictions (same prompt, other completion) and leakage."""
    kept = tally.keep()
    prompts, completions = as_numbers(tally.prompts)[kept], as_numbers(tally.completions)[kept]
    numbers, splits = as_numbers(tally.numbers)[kept], tally.splits[kept]
    found = _Repeats()
    for places in _repeated(prompts):
        found.see(numbers[places].tolist(), completions[places].tolist(), splits[places].tolist())
    return found.as_dict()


def _repeated(keys: np.ndarray[Any, Any]) -> Iterable[np.ndarray[Any, Any]]:
    """Places of equal keys, for each key that occurs more than once; in the order of the file within each."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    begins = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(keys) else np.zeros(0, int)
    ends = np.append(begins[1:], len(keys))
    repeated = np.flatnonzero(ends - begins > 1)
    # By first occurrence, so that the examples are the first of the file.
    repeated = repeated[np.argsort(order[begins[repeated]], kind="stable")]
    for begin, end in zip(begins[repeated].tolist(), ends[repeated].tolist(), strict=True):
        yield order[begin:end]


class _Repeats:
    """Counts everything, keeps the first few examples."""

    def __init__(self) -> None:
        self.n = {"duplicates": 0, "contradictions": 0, "leakage": 0}
        self.examples: dict[str, list[Any]] = {name: [] for name in self.n}

    def _add(self, kind: str, example: Any) -> None:
        self.n[kind] += 1
        if len(self.examples[kind]) < N_EXAMPLES:
            self.examples[kind].append(example)

    def see(self, numbers: Sequence[int], completions: Sequence[int], splits: Sequence[int]) -> None:
        """Rows that have one prompt."""
        first: dict[int, int] = {}
        for number, completion in zip(numbers, completions, strict=True):
            if completion in first:
                self._add("duplicates", [first[completion], number])
            else:
                first[completion] = number
        if len(first) > 1:
            self._add("contradictions", list(numbers[:N_EXAMPLES]))
        trained = next((number for number, split in zip(numbers, splits, strict=True) if split == 0), None)
        if trained is None:
            return
        for number, split in zip(numbers, splits, strict=True):
            if split:
                self._add("leakage", {"row": number, "split": SPLITS[split], "train_row": trained})

    def as_dict(self) -> dict[str, Any]:
        return {name: {"n": n, "examples": self.examples[name]} for name, n in self.n.items()}


def count_by_label(tally: Tally, names: Sequence[str]) -> dict[str, list[int]]:
    """Rows a label in each split, without labels of which every row was dropped."""
    width = len(SPLITS) + 1
    flat = np.bincount(as_numbers(tally.labels) * width + tally.splits, minlength=width * len(names))
    table = flat.reshape(len(names), width)[:, : len(SPLITS)].tolist()
    return {name: counts for name, counts in zip(names, table, strict=True) if sum(counts)}


def first_of_equals(tally: Tally) -> np.ndarray[Any, Any]:
    """True for the first of rows with the same prompt and completion, and for all others."""
    completions = as_numbers(tally.completions) * np.uint64(0x9E3779B97F4A7C15)
    _, first = np.unique(as_numbers(tally.prompts) ^ completions, return_index=True)
    keep = np.zeros(len(tally), bool)
    keep[first] = True
    return keep


def leaks_dropped(tally: Tally) -> int:
    """Drops training rows whose prompt is also held out; returns how many."""
    prompts = as_numbers(tally.prompts)
    held = np.unique(prompts[(tally.splits > 0) & (tally.splits < len(SPLITS))])
    leaking = (tally.splits == 0) & np.isin(prompts, held)
    tally.splits[leaking] = len(SPLITS)
    return int(leaking.sum())


def write_keys(tally: Tally, folder: Path) -> None:
    """KEYS_FILE: split files are written in the order of the rows, one after the other."""
    order = np.argsort(tally.splits, kind="stable")
    order = order[tally.splits[order] < len(SPLITS)]
    records = np.zeros(len(order), KEYS)
    records["prompt"], records["exact"] = as_numbers(tally.prompts)[order], as_numbers(tally.exact)[order]
    records["split"] = tally.splits[order]
    np.save(folder / KEYS_FILE, records, allow_pickle=False)
