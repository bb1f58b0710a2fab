"""Vectors of chunks in Chroma: put in, searched, taken out. Chroma is handed vectors only, never a model to load.

One Chroma collection per Coldframe collection; each vector carries its team, document version and the run that made it.
Guarantees: a search is narrowed to the team in the query itself; publishing the same run again changes nothing; vectors
of a new index lie beside the old ones until the database names the new run (`services.collections.ingest_publish`), so
what is live is decided in one place, the database. Removal follows later (`sweep`); readers must drop what is not live.
Chroma needs no lock here: every process goes through its server, which embedded.py starts once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ml.errors import DataError, UnavailableError

BATCH = 2000
"""Rows in one request; Chroma refuses more than 5,461."""
VECTORS = "vectors.safetensors"

logger = logging.getLogger(__name__)
_url = ""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A vector near the query: which chunk it belongs to."""

    run_id: int
    version_id: int
    number: int
    score: float
    """Cosine similarity, -1 to 1."""


def configure(url: str) -> None:
    """Use this address from now on; an empty one means settings.CHROMA_URL again."""
    global _url
    _url = url
    client.cache_clear()


def chroma_url() -> str:
    if _url:
        return _url
    from django.conf import settings

    return str(settings.CHROMA_URL)


@lru_cache(maxsize=1)
def client() -> Any:
    """The process's client; safe for threads."""
    import chromadb
    from chromadb.config import Settings

    address = urlsplit(chroma_url())
    is_tls = address.scheme == "https"
    return chromadb.HttpClient(
        host=address.hostname or "127.0.0.1", port=address.port or (443 if is_tls else 80), ssl=is_tls,
        settings=Settings(anonymized_telemetry=False),
    )  # fmt: skip


@contextmanager
def chroma_errors(doing: str) -> Iterator[None]:
    """Turns a server that does not answer into UnavailableError."""
    import chromadb.errors
    import httpx

    try:
        yield
    except (httpx.HTTPError, OSError, chromadb.errors.InternalError, ValueError) as error:
        if isinstance(error, ValueError) and "connect" not in str(error).lower():
            raise
        client.cache_clear()
        raise UnavailableError(
            f"Could not {doing}: the vector store does not answer ({type(error).__name__}).",
            hint="Try again in some seconds; /healthz shows which part is down.",
        ) from error


def _prefix() -> str:
    """A vector store may be shared: without the installation in the name, the sweep of one would empty the other."""
    from webapp.models import Installation

    return f"coldframe-{Installation.current_key()}-"


def name_of(collection_id: int) -> str:
    """Chroma's name of a collection."""
    return f"{_prefix()}{collection_id}"


def _existing(collection_id: int) -> Any | None:
    import chromadb.errors

    try:
        return client().get_collection(name_of(collection_id), embedding_function=None)
    except chromadb.errors.NotFoundError:
        return None


def _get_or_create(collection_id: int) -> Any:
    return client().get_or_create_collection(
        name_of(collection_id), embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
    )


def put(
    *, team_id: int, collection_id: int, run_id: int, version_id: int, vectors: Any, numbers: Sequence[int]
) -> None:
    """Stores one document version's vectors ([n, D] float32), replacing those that the same run put before."""
    with chroma_errors("store the vectors"):
        store = _get_or_create(collection_id)
        for first in range(0, len(numbers), BATCH):
            some = numbers[first : first + BATCH]
            store.upsert(
                ids=[f"{run_id}:{version_id}:{number}" for number in some],
                embeddings=vectors[first : first + BATCH],
                metadatas=[
                    {"team_id": team_id, "version_id": version_id, "run_id": run_id, "number": number}
                    for number in some
                ],
            )


def publish(run: Any, out: Path) -> int:
    """Stores the vectors of a finished ingest run; to be called before `ingest_publish`. Returns how many;
    none when the collection was deleted meanwhile.

    Raises UnavailableError (try again) or DataError (the run's output is not whole).
    """
    from safetensors.numpy import load_file

    from webapp.models import Collection

    if not Collection.objects.filter(pk=run.spec["collection_id"], team_id=run.team_id).exists():
        return 0
    try:
        tensors = load_file(out / VECTORS)
        documents = {d["id"]: json.loads((out / f"{d['id']}.json").read_text()) for d in run.spec["documents"]}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"The output of run {run.pk} is not whole: {error}.", hint="Run it again.") from error
    n_stored = 0
    for version_id, document in documents.items():
        if document.get("error") or not document["chunks"]:
            continue
        numbers = [chunk["number"] for chunk in document["chunks"]]
        vectors = tensors.get(str(version_id))
        if vectors is None or len(vectors) != len(numbers):
            raise DataError(f"The output of run {run.pk} lacks vectors of document {version_id}.", hint="Run it again.")
        put(
            team_id=run.team_id, collection_id=run.spec["collection_id"], run_id=run.pk, version_id=version_id,
            vectors=vectors, numbers=numbers,
        )  # fmt: skip
        n_stored += len(numbers)
    return n_stored


def query(*, team_id: int, collection_id: int, vector: Any, n: int) -> list[Hit]:
    """The `n` nearest vectors of the team's collection, best first; those of versions not live any more included."""
    with chroma_errors("search"):
        store = _existing(collection_id)
        if store is None:
            return []
        found = store.query(
            query_embeddings=[vector], n_results=n, where={"team_id": team_id}, include=["metadatas", "distances"]
        )
    return [
        Hit(run_id=int(about["run_id"]), version_id=int(about["version_id"]), number=int(about["number"]),
            score=1.0 - float(distance))
        for about, distance in zip(found["metadatas"][0], found["distances"][0], strict=True)
    ]  # fmt: skip


def count(collection_id: int) -> int:
    with chroma_errors("count the vectors"):
        store = _existing(collection_id)
        return 0 if store is None else int(store.count())


def forget(collection_id: int, version_ids: Sequence[int]) -> None:
    """Takes the vectors of these document versions out."""
    with chroma_errors("remove the vectors"):
        store = _existing(collection_id)
        for first in range(0, len(version_ids), BATCH):
            if store is not None:
                store.delete(where={"version_id": {"$in": list(version_ids[first : first + BATCH])}})


def forget_runs_except(collection_id: int, run_ids: Sequence[int], *, up_to: int) -> None:
    """Takes the vectors of all other runs up to number `up_to` out: indexes that were replaced or never went live."""
    with chroma_errors("remove the vectors"):
        store = _existing(collection_id)
        if store is not None:
            store.delete(where={"$and": [{"run_id": {"$nin": list(run_ids) or [0]}}, {"run_id": {"$lte": up_to}}]})


def drop(collection_id: int) -> None:
    """Removes a collection with all its vectors; nothing happens when there is none."""
    import chromadb.errors

    with chroma_errors("remove the collection's vectors"):
        try:
            client().delete_collection(name_of(collection_id))
        except chromadb.errors.NotFoundError:
            logger.debug("collection %s has no vectors", collection_id)


def sweep() -> int:
    """Removes what the database does not know or want any more; idempotent, called by the reconciler.

    Vectors of runs that are still at work stay, and of those that began after the sweep did. Returns how many went.
    """
    from webapp.selectors.collections import newest_run_id, vectors_wanted

    n_removed, prefix = 0, _prefix()
    with chroma_errors("list the collections"):
        names = [store.name for store in client().list_collections()]
    for name in names:
        digits = name.removeprefix(prefix)
        if digits == name or not digits.isdigit():
            continue
        collection_id, newest = int(digits), newest_run_id()
        n_before, wanted = count(collection_id), vectors_wanted(collection_id)
        if wanted is None:
            drop(collection_id)
        else:
            forget_runs_except(collection_id, wanted.run_ids, up_to=newest)
            forget(collection_id, wanted.dead_version_ids)
        n_removed += max(0, n_before - count(collection_id))
    return n_removed
