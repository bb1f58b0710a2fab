"""A version's folder: its split files, the hash over them, its first rows.

Guarantees: split files are written a line at a time, in the order of the person's file; the hash is over everything
that training reads, and over nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ml.data.tally import SPLITS, Tally

N_SAMPLES = 20
MAX_TEXT = 4000
"""Characters of a text that are kept with the report."""


def write_splits(spool: IO[bytes], tally: Tally, out: Path) -> dict[str, int]:
    """Deals the spool's lines to the split files; returns the rows of each."""
    spool.seek(0)
    files = [(out / f"{split}.jsonl").open("wb") for split in SPLITS]
    try:
        for line, split in zip(spool, tally.splits.tobytes(), strict=True):
            if split < len(SPLITS):
                files[split].write(line)
    finally:
        for file in files:
            file.close()
    return {split: int((tally.splits == place).sum()) for place, split in enumerate(SPLITS)}


def first_rows(out: Path) -> list[dict[str, Any]]:
    """The first rows of train, shortened for a page."""
    rows = []
    with (out / "train.jsonl").open(encoding="utf-8") as file:
        for line, _ in zip(file, range(N_SAMPLES), strict=False):
            row = json.loads(line)
            row["messages"] = [{**m, "content": m["content"][:MAX_TEXT]} for m in row["messages"]]
            row["completion"] = row["completion"][:MAX_TEXT]
            rows.append(row)
    return rows


def content_hash(about: Mapping[str, Any], folder: Path) -> str:
    """sha256 (hex) over task, labels, columns, mapping and the bytes of the split files."""
    whole = hashlib.sha256(json.dumps(about, sort_keys=True, ensure_ascii=False).encode())
    for split in SPLITS:
        with (folder / f"{split}.jsonl").open("rb") as file:
            whole.update(f"\n{split} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return whole.hexdigest()
