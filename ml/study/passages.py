"""The passages of a collection that were found for each test row, as a file that a study is given.

A study's process has neither database nor vector store: who starts it searches the collection as chat does and writes
what was found. passages.json has `collection`, `refusal`, `top_k`, `threshold`, `embedder`; `sources` (by id: title,
page, text); `questions` (by question: [id, score] of each hit, the best first). By question, since all answers of one
conversation have one row's number. Its sha256 is part of what the figures depend on.
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
    """What was found for the question of every test row."""

    refusal: str = ""
    """What the collection answers when nothing in it is near enough."""
    sha256: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Collection, top_k, threshold, embedder."""
    by_question: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    otherwise: Sequence[Mapping[str, Any]] = ()
    """Of questions that are not in `by_question`."""

    def of(self, question: str) -> list[dict[str, Any]]:
        """The hits of a question, numbered from 1."""
        hits = self.by_question.get(question, self.otherwise)
        return [{"n": n, **hit} for n, hit in enumerate(hits, start=1)]

    def example(self) -> list[str]:
        """Texts that are like those of any question: of the first one that has some."""
        found = next((hits for hits in self.by_question.values() if hits), self.otherwise)
        return [str(hit["text"]) for hit in found]


def passages_like(texts: Sequence[str]) -> Passages:
    """The same for every question: for a plan."""
    return Passages(otherwise=[{"text": text} for text in texts])


def read_passages(path: Path) -> Passages:
    """Raises DataError naming the file when it cannot be read or is no such file."""
    try:
        raw = path.read_bytes()
        given = json.loads(raw)
        sources = {str(key): dict(one) for key, one in given["sources"].items()}
        by_question = {
            str(question): [{**sources[str(key)], "score": float(score)} for key, score in hits]
            for question, hits in given["questions"].items()
        }
        if not all(isinstance(one["text"], str) for one in sources.values()):
            raise TypeError("a source's text is no text")
        return Passages(refusal=str(given["refusal"]), sha256=hashlib.sha256(raw).hexdigest(),
                        by_question=by_question, about={name: given[name] for name in _ABOUT})  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"The passages {path.name} cannot be read: {type(error).__name__}: {error}.",
                        hint="Begin a new study: its passages are searched anew.") from error  # fmt: skip


def passages_file(
    about: Mapping[str, Any], *, refusal: str, found: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """What passages.json holds. A hit of `found`, by question, has chunk_id, title, page, score and text."""
    sources = {str(hit["chunk_id"]): {name: hit[name] for name in ("title", "page", "text")}
               for hits in found.values() for hit in hits}  # fmt: skip
    questions = {question: [[str(hit["chunk_id"]), hit["score"]] for hit in hits] for question, hits in found.items()}
    return {**{name: about[name] for name in _ABOUT}, "refusal": refusal, "sources": sources, "questions": questions}
