"""Rows of a stored version, read from its files as a stream: for pages, and as downloads.

Guarantees: no split is ever held in memory. CSV cells that a spreadsheet would run as a formula get an apostrophe.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Any

from asgiref.sync import sync_to_async

from ml.specs.csv_cells import neutral_cell
from webapp import storage
from webapp.models import DatasetVersion
from webapp.selectors.drafts import origins_of

SPLITS = ("train", "validation", "test")
PAGE_SIZE = 25
MAX_SHOWN = 1200
BATCH = 500
MAX_SLICE = 4_000_000
"""Characters after which a slice takes no further row."""


def rows_of(version: DatasetVersion, split: str = "", *, first: int = 0) -> Iterator[dict[str, Any]]:
    """Every row from the `first` on, with its split's name."""
    folder = storage.path_of(version.storage_key)
    for name in SPLITS:
        if split and name != split:
            continue
        with (folder / f"{name}.jsonl").open("rb") as file:
            for line in file:
                if first:
                    first -= 1
                    continue
                yield {**json.loads(line), "split": name}


def _matches(row: dict[str, Any], query: str) -> bool:
    if query.startswith("label:"):
        return row["completion"].casefold() == query[6:].strip()
    texts = (*(message["content"] for message in row["messages"]), row["completion"])
    return any(query in text.casefold() for text in texts)


def common_beginning(texts: list[str]) -> int:
    """Characters that all texts share at their start, up to a word's end; 0 when that is little or texts are few."""
    if len(texts) < 3:
        return 0
    low, high = min(texts), max(texts)
    n = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    n = max(low.rfind(" ", 0, n), low.rfind("\n", 0, n)) + 1
    return n if n >= 24 else 0


def _found(version: DatasetVersion, split: str, query: str, first: int) -> Iterator[dict[str, Any]]:
    """Rows from the `first` on of those that hold the query; without one, lines before it are passed unread."""
    wanted, split = query.strip().casefold()[:200], split if split in SPLITS else ""
    if not wanted:
        return rows_of(version, split, first=first)
    return islice((row for row in rows_of(version, split) if _matches(row, wanted)), first, None)


def rows_slice(
    version: DatasetVersion, *, split: str, query: str, first: int, most: int
) -> tuple[list[dict[str, Any]], bool]:
    """At most `most` whole rows, fewer where they are long, and whether they are the last. Rows from chat say where
    they came from."""
    rows: list[dict[str, Any]] = []
    n_left, is_last = MAX_SLICE, True
    for row in _found(version, split, query, first):
        if len(rows) == most or (rows and n_left <= 0):
            is_last = False
            break
        rows.append(row)
        n_left -= len(row["completion"]) + sum(len(message["content"]) for message in row["messages"])
    origins = origins_of(version, [row["row"] for row in rows])
    return [{**row, "origin": origins[row["row"]]} if row["row"] in origins else row for row in rows], is_last


def rows_page(version: DatasetVersion, *, split: str = "", query: str = "", page: int = 1) -> dict[str, Any]:
    """One page of rows, narrowed by split and text (`label:x` for a label)."""
    first = (max(1, page) - 1) * PAGE_SIZE
    found = list(islice(_found(version, split, query, first), PAGE_SIZE + 1))
    origins = origins_of(version, [row["row"] for row in found])
    n_shared = common_beginning([row["messages"][-1]["content"] for row in found[:PAGE_SIZE]])
    lead = "… " if n_shared else ""
    shown = [
        {
            "row": row["row"], "split": row["split"], "completion": row["completion"][:MAX_SHOWN],
            "text": lead + row["messages"][-1]["content"][n_shared : n_shared + MAX_SHOWN],
            "n_turns": len(row["messages"]), "origin": origins.get(row["row"]),
        }
        for row in found[:PAGE_SIZE]
    ]  # fmt: skip
    return {
        "rows": shown, "split": split, "query": query, "page": max(1, page), "first": first + 1,
        "last": first + len(shown), "has_more": len(found) > PAGE_SIZE,
        "has_origins": bool(origins),
        "shared": found[0]["messages"][-1]["content"][:n_shared].strip() if n_shared else "",
    }  # fmt: skip


def as_jsonl(version: DatasetVersion) -> Iterator[str]:
    """A row a line, with its split and, for rows from chat, where it came from."""
    origins = origins_of(version)
    for row in rows_of(version):
        origin = origins.get(row["row"])
        yield json.dumps({**row, "origin": origin} if origin else row, ensure_ascii=False) + "\n"


def as_csv(version: DatasetVersion) -> Iterator[str]:
    """row, split, system, prompt, completion; earlier turns of a conversation stand in the prompt, named by role."""
    yield _csv_line(["row", "split", "system", "prompt", "completion"])
    for row in rows_of(version):
        turns = row["messages"]
        system = turns[0]["content"] if turns[0]["role"] == "system" else ""
        rest = turns[1:] if system else turns
        prompt = rest[0]["content"] if len(rest) == 1 else "\n".join(f"{m['role']}: {m['content']}" for m in rest)
        cells = [system, prompt, row["completion"]]
        yield _csv_line([str(row["row"]), row["split"], *(neutral_cell(cell) for cell in cells)])


def _csv_line(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()


async def streamed(lines: Iterator[str]) -> AsyncIterator[bytes]:
    """`lines` in batches, read in a thread: Django would gather a plain iterator whole under ASGI."""

    def batch() -> bytes:
        return "".join(islice(lines, BATCH)).encode()

    while part := await sync_to_async(batch)():
        yield part
