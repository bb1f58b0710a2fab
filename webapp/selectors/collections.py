"""Reads on collections: lists with counts, what is live, what the vector store should hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Max, OuterRef, Q, QuerySet, Subquery, Sum

from webapp.models import Chunk, Collection, Document, DocumentVersion, Run, Team

State = DocumentVersion.State
Key = tuple[int, int, int]
"""Run, document version and number of a chunk: what the vector store knows of it."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What one collection's vectors may belong to."""

    run_ids: list[int]
    dead_version_ids: list[int]


def _versions(**where: Any) -> QuerySet[DocumentVersion]:
    return DocumentVersion.objects.filter(document=OuterRef("pk"), **where).order_by("-number")


def collections_of(team: Team) -> QuerySet[Collection]:
    """The team's collections with n_documents, n_live, n_refused, n_waiting, n_chunks."""
    kept = Q(documents__is_deleted=False)

    def counted(*states: str) -> Count:
        return Count("documents__versions", filter=kept & Q(documents__versions__state__in=states), distinct=True)

    chunks = (
        DocumentVersion.objects.filter(
            document__collection=OuterRef("pk"), document__is_deleted=False, state=State.LIVE
        )
        .values("document__collection")
        .annotate(n=Sum("n_chunks"))
        .values("n")
    )
    return (
        Collection.objects.for_team(team)
        .annotate(
            n_documents=Count("documents", filter=kept, distinct=True),
            n_live=counted(State.LIVE),
            n_refused=counted(State.REFUSED),
            n_waiting=counted(State.WAITING, State.READING),
            n_chunks=Subquery(chunks),
            changed_at=Max("documents__versions__created_at"),
        )
        .order_by("name")
    )


def documents_of(collection: Collection) -> QuerySet[Document]:
    """The collection's documents, each with its newest version's figures and whether an older one is live."""
    newest = _versions()
    return collection.documents.filter(is_deleted=False).annotate(
        state=Subquery(newest.values("state")[:1]),
        error=Subquery(newest.values("error")[:1]),
        n_chunks=Subquery(newest.values("n_chunks")[:1]),
        pages=Subquery(newest.values("pages")[:1]),
        size_bytes=Subquery(newest.values("size_bytes")[:1]),
        number=Subquery(newest.values("number")[:1]),
        read_at=Subquery(newest.values("created_at")[:1]),
        live_number=Subquery(_versions(state=State.LIVE).values("number")[:1]),
    )


def ingest_runs_of(collection: Collection, *, limit: int = 3) -> list[Run]:
    """Ingest runs of the collection that are not over, and the newest one."""
    runs = Run.objects.for_team(collection.team).filter(kind=Run.Kind.INGEST, spec__collection_id=collection.pk)
    active = list(runs.exclude(state__in=Run.TERMINAL).order_by("pk")[:limit])
    return active or list(runs.order_by("-pk")[:1])


def live_chunks(*, team_id: int, collection_id: int, keys: Iterable[Key]) -> dict[Key, Chunk]:
    """The chunks among `keys` that answers may stand on now, with version and document."""
    wanted = set(keys)
    if not wanted:
        return {}
    chunks = (
        Chunk.objects.filter(
            team_id=team_id, version__team_id=team_id, version__document__collection_id=collection_id,
            version__document__is_deleted=False, version__state=State.LIVE,
            version_id__in={key[1] for key in wanted}, number__in={key[2] for key in wanted},
        )
        .select_related("version__document")
        .defer("version__text", "version__pages")
    )  # fmt: skip
    found = {(chunk.version.run_id, chunk.version_id, chunk.number): chunk for chunk in chunks}
    return {key: chunk for key, chunk in found.items() if key in wanted}


def vectors_wanted(collection_id: int) -> Wanted | None:
    """Runs whose vectors stay and versions whose vectors go; None when the collection is gone."""
    if not Collection.objects.filter(pk=collection_id).exists():
        return None
    versions = DocumentVersion.objects.filter(document__collection_id=collection_id)
    live = versions.filter(state=State.LIVE, document__is_deleted=False, run__isnull=False)
    at_work = Run.objects.filter(kind=Run.Kind.INGEST).exclude(state__in=Run.TERMINAL)
    dead = versions.filter(Q(state=State.REPLACED) | Q(document__is_deleted=True))
    return Wanted(
        run_ids=sorted({*live.values_list("run_id", flat=True), *at_work.values_list("pk", flat=True)}),
        dead_version_ids=sorted(dead.values_list("pk", flat=True)),
    )


def newest_run_id() -> int:
    return Run.objects.aggregate(newest=Max("pk"))["newest"] or 0
