"""Writes on collections: create, change, delete, re-index. Documents and ingest runs are offered from here as well.

Guarantees: settings are checked the same way for forms, the API and the seed; changing how documents are cut re-reads
them in a run while the old chunks go on answering; deleting a collection deletes what it holds, and nothing of it is
found from that moment.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction

from ml.errors import DataError, SpecError
from webapp.models import Collection, DocumentVersion, Run, Team
from webapp.names import name_check
from webapp.selectors.collections import ingest_runs_of
from webapp.services.documents import (
    Added,
    document_delete,
    document_read_again,
    documents_add,
    ingest_submit,
    versions_wait_for,
)
from webapp.services.ingests import ingest_publish, ingest_run_over
from webapp.services.runs import run_cancel
from webapp.services.teams import audit

__all__ = [
    "Added", "collection_create", "collection_delete", "collection_reindex", "collection_update", "document_delete",
    "document_read_again", "documents_add", "ingest_publish", "ingest_run_over",
]  # fmt: skip
MIN_CHUNK, MAX_CHUNK = 16, 254
"""Tokens; all-MiniLM-L6-v2 sees 256 with its two special tokens."""
MAX_TOP_K = 20
CUTTING = ("chunk_size", "chunk_overlap", "embedder")
"""Settings whose change needs a new index."""


def _check_number(label: str, field: str, value: Any, low: float, high: float, unit: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise SpecError(f"{label} must be {low:g} to {high:g}{unit}, got {value!r}.", field=field)


def _check_settings(collection: Collection) -> None:
    _check_number("A chunk", "chunk_size", collection.chunk_size, MIN_CHUNK, MAX_CHUNK, " tokens")
    half = collection.chunk_size // 2
    _check_number("The overlap", "chunk_overlap", collection.chunk_overlap, 0, half, " tokens (half a chunk)")
    _check_number("The number of chunks", "top_k", collection.top_k, 1, MAX_TOP_K)
    _check_number("The threshold", "threshold", collection.threshold, 0, 1)
    collection.refusal, collection.description = collection.refusal.strip(), collection.description.strip()
    if not 1 <= len(collection.refusal) <= 300:
        raise SpecError(f"The refusal needs 1 to 300 characters, got {len(collection.refusal)}.", field="refusal")
    if len(collection.description) > 300:
        raise SpecError(
            f"The description may have 300 characters, got {len(collection.description)}.", field="description"
        )


def _taken(name: str) -> SpecError:
    return SpecError(
        f"There is a collection {name} in this team already.", field="name", hint="Choose another name.", status=409
    )


@transaction.atomic
def collection_create(
    *, team: Team, user: Any, name: str, description: str = "", chunk_size: int = 160, chunk_overlap: int = 32,
    top_k: int = 3, threshold: float = 0.25, refusal: str | None = None,
) -> Collection:  # fmt: skip
    """An empty collection. Raises SpecError with `field` set."""
    collection = Collection(
        team=team, created_by=user, name=name_check(name), description=description, chunk_size=chunk_size,
        chunk_overlap=chunk_overlap, top_k=top_k, threshold=threshold, embedder=settings.EMBEDDING_MODEL,
    )  # fmt: skip
    if refusal is not None:
        collection.refusal = refusal
    _check_settings(collection)
    try:
        with transaction.atomic():
            collection.save()
    except IntegrityError:
        raise _taken(collection.name) from None
    audit(team=team, user=user, action="collection.create", subject=collection)
    return collection


@transaction.atomic
def collection_update(*, collection: Collection, user: Any, **changes: Any) -> Run | None:
    """Changes settings; returns the re-index run when documents must be cut anew. Raises SpecError."""
    known = {"name", "description", "chunk_size", "chunk_overlap", "top_k", "threshold", "refusal"}
    if unknown := sorted(set(changes) - known):
        raise SpecError(f"Unknown settings: {', '.join(unknown)}.", field=unknown[0])
    locked = Collection.objects.select_for_update().get(pk=collection.pk)
    before = {name: getattr(locked, name) for name in CUTTING}
    for name, value in changes.items():
        setattr(locked, name, value)
    locked.name = name_check(locked.name)
    _check_settings(locked)
    try:
        with transaction.atomic():
            locked.save(update_fields=sorted(known))
    except IntegrityError:
        raise _taken(locked.name) from None
    audit(team=locked.team, user=user, action="collection.update", subject=locked)
    is_cut_anew = any(getattr(locked, name) != value for name, value in before.items())
    if not is_cut_anew or not _readable(locked):
        return None
    return collection_reindex(collection=locked, user=user)


def _readable(collection: Collection) -> list[DocumentVersion]:
    """The newest version of each document, and the live one where the newest is not live."""
    versions = (
        DocumentVersion.objects.filter(document__collection=collection, document__is_deleted=False)
        .select_related("document")
        .defer("text")
        .order_by("document_id", "-number")
    )
    chosen: dict[int, list[DocumentVersion]] = {}
    for version in versions:
        own = chosen.setdefault(version.document_id, [])
        if not own or (version.state == DocumentVersion.State.LIVE and own[0].state != DocumentVersion.State.LIVE):
            own.append(version)
    return [version for own in chosen.values() for version in own]


@transaction.atomic
def collection_reindex(*, collection: Collection, user: Any) -> Run:
    """A run that reads every document again; what is live goes on answering until the new chunks are whole."""
    versions = _readable(collection)
    if not versions:
        raise DataError(f"{collection} has no documents to read.", hint="Add documents first.", status=409)
    run = ingest_submit(
        collection=collection, user=user, versions=versions, title=f"{collection.name}, all documents"
    )  # fmt: skip
    versions_wait_for(run=run, versions=versions)
    audit(team=collection.team, user=user, action="collection.reindex", subject=collection)
    return run


@transaction.atomic
def collection_delete(*, collection: Collection, user: Any) -> None:
    """Deletes the collection with its documents. Citations in messages keep their text; vectors go with the sweep."""
    for run in ingest_runs_of(collection, limit=100):
        if not run.is_over:
            run_cancel(run=run, user=user)
    audit(team=collection.team, user=user, action="collection.delete", subject=collection)
    collection.delete()
