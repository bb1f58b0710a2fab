"""The passages of a collection that were found for each test row, as a file that a study is given.

A study's process has neither database nor vector store: who starts it searches the collection as chat does and writes
what was found. passages.json has `collection`, `refusal`, `top_k`, `threshold`, `embedder`; `sources` (by id: title,
page, text); `rows` (by row number: [id, score] of each hit, the best first). Its sha256 is part of what the figures
depend on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml.errors import DataError

_ABOUT = ("collection", "top_k", "threshold", "embedder")


@dataclass(frozen=True, kw_only=True)
class Passages:
    """What was found for every test row."""

    refusal: str = ""
    """What the collection answers when nothing in it is near enough."""
    sha256: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Collection, top_k, threshold, embedder."""
    by_row: Mapping[int, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    otherwise: Sequence[Mapping[str, Any]] = ()
    """Of rows that are not in `by_row`."""

    def of(self, number: int) -> list[dict[str, Any]]:
        """The hits of a row, numbered from 1."""
        hits = self.by_row.get(number, self.otherwise)
        return [{"n": n, **hit} for n, hit in enumerate(hits, start=1)]

    def example(self) -> list[str]:
        """Texts that are like those of any row: of the first one that has some."""
        found = next((hits for hits in self.by_row.values() if hits), self.otherwise)
        return [str(hit["text"]) for hit in found]


def passages_like(texts: Sequence[str]) -> Passages:
    """The same for every row: for a plan."""
    return Passages(otherwise=[{"text": text} for text in texts])


def read_passages(path: Path) -> Passages:
    """Raises DataError naming the file when it cannot be read or is no such file."""
    try:
        raw = path.read_bytes()
        given = json.loads(raw)
        sources = {str(key): dict(one) for key, one in given["sources"].items()}
        by_row = {
            int(number): [{**sources[str(key)], "score": float(score)} for key, score in hits]
            for number, hits in given["rows"].items()
        }
        if not all(isinstance(one["text"], str) for one in sources.values()):
            raise TypeError("a source's text is no text")
        return Passages(refusal=str(given["refusal"]), sha256=hashlib.sha256(raw).hexdigest(), by_row=by_row,
                        about={name: given[name] for name in _ABOUT})  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"The passages {path.name} cannot be read: {type(error).__name__}: {error}.",
                        hint="Start the study again: they are searched anew.") from error  # fmt: skip


def passages_file(
    about: Mapping[str, Any], *, refusal: str, found: Mapping[int, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """What passages.json holds. A hit of `found`, by row number, has chunk_id, title, page, score and text."""
    sources = {str(hit["chunk_id"]): {name: hit[name] for name in ("title", "page", "text")}
               for hits in found.values() for hit in hits}  # fmt: skip
    rows = {str(number): [[str(hit["chunk_id"]), hit["score"]] for hit in hits] for number, hits in found.items()}
    return {**{name: about[name] for name in _ABOUT}, "refusal": refusal, "sources": sources, "rows": rows}
