"""Retrieval as the engine process uses it: embed a question, find its chunks.

Guarantees: every hit is of the team that asked and of a document version that is live at that moment (the vector store
narrows by team, the database by everything else); chunk texts come from the database. One embedding model a process,
loaded on first use, one call at a time. Not here: how chunks stand in a prompt (ml.retrieval.sources), and which parts
of an answer are citations.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from jobs import vectors
from ml.errors import NotFoundError

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
