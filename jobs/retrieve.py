"""Retrieval as the engine process uses it: embed a question, find its chunks, put them into the prompt.

Guarantees: every hit is of the team that asked and of a document version that is live at that moment (the vector store
narrows by team, the database by everything else); chunk texts come from the database. One embedding model a process,
loaded on first use, one call at a time. Not here: generating the answer, and which parts of it are citations.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from jobs import vectors
from ml.errors import NotFoundError

INSTRUCTION = "You answer from sources. Cite them like [1]."
REMINDER = "Answer in one sentence and cite the source."
_HEADING = re.compile(r"#{1,6}\s")
_SENTENCE_END = re.compile(r"(?<=\w{4})([.!])(?=\s|$)")
"""Not of questions: a small model takes a marked question for an answer. Four letters spare most abbreviations."""
MAX_QUERY_CHARACTERS = 4000
_OVERFETCH = 4
_MAX_FETCH = 2000
_lock = threading.Lock()

logger = logging.getLogger(__name__)


@lru_cache(maxsize=2)
def _embedder(models_dir: str, name: str) -> Any:
    from pathlib import Path

    from ml.retrieval.embed import load_embedder

    return load_embedder(Path(models_dir), name)


def embed(texts: Sequence[str], *, embedder: str = "") -> list[list[float]]:
    """Vectors of length one. `embedder`: a model folder's name; the default is settings.EMBEDDING_MODEL."""
    from django.conf import settings

    with _lock:
        found = _embedder(str(settings.MODELS_DIR), embedder or settings.EMBEDDING_MODEL).embed(list(texts))
    rows: list[list[float]] = found.tolist()
    return rows


def embed_counted(texts: Sequence[str]) -> dict[str, Any]:
    """`vectors`; `n_tokens` that the model has read of all; `cut`: places of texts longer than the `most` it reads."""
    from django.conf import settings

    vectors = embed(texts)
    with _lock:
        embedder = _embedder(str(settings.MODELS_DIR), settings.EMBEDDING_MODEL)
        lengths, most = embedder.lengths(texts), int(embedder.max_tokens)
    cut = [place for place, length in enumerate(lengths) if length > most]
    return {"vectors": vectors, "n_tokens": sum(min(length, most) for length in lengths), "cut": cut, "most": most}


def search(
    *, team_id: int, collection_id: int, query: str, k: int | None = None, threshold: float | None = None
) -> list[dict[str, Any]]:
    """The `k` best chunks of at least `threshold` cosine similarity, best first, numbered from 1.

    None takes the collection's own setting. Raises NotFoundError (no such collection in this team),
    UnavailableError (vector store down).
    """
    from django.db import close_old_connections

    from webapp.models import Collection

    close_old_connections()
    collection = Collection.objects.filter(team_id=team_id, pk=collection_id).first()
    if collection is None:
        raise NotFoundError(f"There is no collection {collection_id} in this team.")
    k = collection.top_k if k is None else k
    threshold = collection.threshold if threshold is None else threshold
    if not query.strip() or k < 1:
        return []
    vector = embed([query[:MAX_QUERY_CHARACTERS]], embedder=collection.embedder)[0]
    return _live_hits(team_id, collection_id, vector, k, threshold)


def _live_hits(team_id: int, collection_id: int, vector: list[float], k: int, threshold: float) -> list[dict[str, Any]]:
    """Asks for more until `k` live chunks are found or there are no more vectors above the threshold."""
    n = max(_OVERFETCH * k, 20)
    while True:
        found = vectors.query(team_id=team_id, collection_id=collection_id, vector=vector, n=n)
        near = [hit for hit in found if hit.score >= threshold]
        hits = _described(team_id, collection_id, near)[:k]
        if len(hits) == k or len(near) < n or n >= _MAX_FETCH:
            return [{"n": place, **hit} for place, hit in enumerate(hits, start=1)]
        n = min(n * 4, _MAX_FETCH)


def _described(team_id: int, collection_id: int, hits: Sequence[vectors.Hit]) -> list[dict[str, Any]]:
    """Hits whose chunk is live, with its text and place."""
    from webapp.selectors.collections import live_chunks

    wanted = {(hit.run_id, hit.version_id, hit.number): hit.score for hit in hits}
    chunks = live_chunks(team_id=team_id, collection_id=collection_id, keys=list(wanted))
    return [
        {
            "document_id": chunk.version.document_id, "document_version_id": chunk.version.pk, "chunk_id": chunk.pk,
            "title": chunk.version.document.title, "page": chunk.page, "start": chunk.start, "end": chunk.end,
            "score": round(wanted[key], 4), "text": chunk.text, "number": chunk.number,
        }
        for key in wanted if (chunk := chunks.get(key)) is not None
    ]  # fmt: skip


def refusal_of(*, team_id: int, collection_id: int) -> str:
    """What the collection says when nothing in it is near enough. Raises NotFoundError."""
    from webapp.models import Collection

    found = Collection.objects.filter(team_id=team_id, pk=collection_id).values_list("refusal", flat=True).first()
    if found is None:
        raise NotFoundError(f"There is no collection {collection_id} in this team.")
    return str(found)


def about_tokens(text: str) -> int:
    """A cautious guess for English: three characters a token."""
    return len(text) // 3 + 1


def fit_sources(
    hits: Sequence[dict[str, Any]], *, budget_tokens: int | None, count: Callable[[str], int] = about_tokens
) -> list[dict[str, Any]]:
    """The best hits that fit the budget together, numbers unchanged. `count` counts a text's tokens."""
    if budget_tokens is None:
        return list(hits)
    kept, left = [], budget_tokens
    for hit in hits:
        left -= count(_source(hit))
        if left < 0:
            break
        kept.append(hit)
    return kept


def _source(hit: dict[str, Any]) -> str:
    return f"{_marked(hit['text'], hit['n'])}\n\n"


def _marked(text: str, n: int) -> str:
    """A chunk with its number at the end of its sentences, without headings, blanks collapsed.

    Small models cite by copying: told to cite plain sources, SmolLM2-135M wrote no marker; with a numbered title above
    each it wrote lists of titles; with sentences marked like this, and nothing else, it copies sentence and marker.
    """
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip() and not _HEADING.match(line.strip())]
    marked = "\n".join(_SENTENCE_END.sub(rf" [{n}]\1", line) for line in lines)
    return marked if f"[{n}]" in marked else f"{marked} [{n}]".strip()


def sources_prompt(
    messages: Sequence[dict[str, str]], hits: Sequence[dict[str, Any]], *, budget_tokens: int | None = None,
    count: Callable[[str], int] = about_tokens,
) -> list[dict[str, str]]:  # fmt: skip
    """`messages` with the numbered sources in front of the last question and a plain instruction as system message.

    The question stands before the sources too: of the orders tried by hand on the demo's opinions, this is the one in
    which SmolLM2-135M went astray least.

    A system message of the caller's stays, ours after it. Sources are data: they stand in the user's turn, never in the
    system's. Without hits the messages come back as they are: the answer is then the refusal, not the model's.
    """
    kept = fit_sources(hits, budget_tokens=budget_tokens, count=count)
    given = [dict(message) for message in messages]
    if not kept or not given:
        return given
    if given[0]["role"] == "system":
        given[0]["content"] = f"{given[0]['content']}\n\n{INSTRUCTION}"
    else:
        given.insert(0, {"role": "system", "content": INSTRUCTION})
    last = max(i for i, message in enumerate(given) if message["role"] == "user")
    sources = "".join(_source(hit) for hit in kept)
    question = f"Question: {given[last]['content']}"
    given[last]["content"] = f"{question}\n\n{sources}{question}\n{REMINDER}"
    return given
