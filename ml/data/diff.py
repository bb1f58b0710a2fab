"""What changed between two versions of a data set: rows added, removed, changed, moved to another split.

A row of one version is first sought unchanged in the other, then in another split, then by its prompt alone (case and
white space aside; the answer, the system text or the spelling differ: "changed"); what is left was added or removed.
Equal rows are matched one to one. Guarantees: reads digests (17 bytes a row), and of the rows themselves only the few
that are shown; row numbers are those of the files that the versions were made of.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ml.data.tally import KEYS, KEYS_FILE, SPLITS, digest, exact_digest
from ml.errors import DataError

N_EXAMPLES = 20
MAX_TEXT = 1200
Places = np.ndarray[Any, Any]


def diff_versions(old: Path, new: Path) -> dict[str, Any]:
    """Counts and the first examples of each kind. Raises DataError for a folder that is no version."""
    before, after = keys_of(old), keys_of(new)
    n_same, left, left_new = 0, np.arange(len(before)), np.arange(len(after))
    same, left, left_new = _match(before, after, left, left_new, "exact", "split")
    n_same = len(same)
    moved, left, left_new = _match(before, after, left, left_new, "exact")
    changed, removed, added = _match(before, after, left, left_new, "prompt")
    return {
        "n_before": len(before),
        "n_after": len(after),
        "same": {"n": n_same},
        "changed": {"n": len(changed), "examples": _pairs(old, new, changed)},
        "moved": {"n": len(moved), "examples": _pairs(old, new, moved)},
        "added": {"n": len(added), "examples": _examples(new, added)},
        "removed": {"n": len(removed), "examples": _examples(old, removed)},
    }


def keys_of(folder: Path) -> Places:
    """The digests of a version's rows; computed from its rows where they were not kept. Raises DataError."""
    path = Path(folder) / KEYS_FILE
    try:
        if path.is_file():
            records: Places = np.load(path, allow_pickle=False)
            if records.dtype == KEYS:
                return records
        return np.fromiter(_computed(Path(folder)), dtype=KEYS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"The rows of {Path(folder).name[:12]} cannot be read: {error}.") from error


def _computed(folder: Path) -> Iterator[tuple[int, int, int]]:
    for split, line in _lines(folder):
        row = json.loads(line)
        asked = [message["content"] for message in row["messages"] if message["role"] != "system"]
        about = {key: row[key] for key in ("messages", "completion", "answers") if key in row}
        body = json.dumps(about, ensure_ascii=False, separators=(",", ":")).encode()
        yield digest("\x1e".join(asked)), exact_digest(body), SPLITS.index(split)


def _lines(folder: Path) -> Iterator[tuple[str, bytes]]:
    for split in SPLITS:
        with (folder / f"{split}.jsonl").open("rb") as file:
            for line in file:
                yield split, line


def _match(before: Places, after: Places, left: Places, right: Places, *fields: str) -> tuple[Places, Places, Places]:
    """Pairs of places [n, 2] that agree in `fields`, one to one in their order; and the places without a partner."""
    mine, theirs = _composed(before[left], fields), _composed(after[right], fields)
    _, at, at_right = np.intersect1d(mine, theirs, assume_unique=True, return_indices=True)
    order = np.argsort(at_right)
    at, at_right = at[order], at_right[order]
    pairs = np.stack([left[at], right[at_right]], axis=1)
    return pairs, np.delete(left, at), np.delete(right, at_right)


def _composed(records: Places, fields: tuple[str, ...]) -> Places:
    """A key a row that no two rows share: equal rows are numbered."""
    keys = records[fields[0]].copy()
    if "split" in fields:
        keys ^= (records["split"].astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    begins = np.concatenate(([True], ordered[1:] != ordered[:-1])) if len(keys) else np.zeros(0, bool)
    counts = np.arange(len(keys)) - np.maximum.accumulate(np.where(begins, np.arange(len(keys)), 0))
    ranks = np.empty(len(keys), np.uint64)
    ranks[order] = counts
    composed: Places = keys ^ (ranks * np.uint64(0xD6E8FEB86659FD93))
    return composed


def _pairs(old: Path, new: Path, pairs: Places) -> list[dict[str, Any]]:
    pairs = pairs[:N_EXAMPLES]
    before, after = _rows(old, pairs[:, 0]), _rows(new, pairs[:, 1])
    return [{"before": before[int(one)], "after": after[int(other)]} for one, other in pairs]


def _examples(folder: Path, places: Places) -> list[dict[str, Any]]:
    places = np.sort(places)[:N_EXAMPLES]
    rows = _rows(folder, places)
    return [rows[int(place)] for place in places]


def _rows(folder: Path, places: Places) -> dict[int, dict[str, Any]]:
    """The rows at these places, shortened."""
    wanted = {int(place) for place in places}
    found: dict[int, dict[str, Any]] = {}
    if not wanted:
        return found
    for place, (split, line) in enumerate(_lines(folder)):
        if place in wanted:
            row = json.loads(line)
            turns = row["messages"]
            found[place] = {
                "row": row["row"], "split": split, "n_turns": len(turns),
                "text": turns[-1]["content"][-MAX_TEXT:], "completion": row["completion"][:MAX_TEXT],
            }  # fmt: skip
            if len(found) == len(wanted):
                break
    return found
