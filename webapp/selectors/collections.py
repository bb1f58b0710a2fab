"""Reads on collections: lists with counts, what is live, what the vector store should hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db.models import Avg, Count, Max, OuterRef, Q, QuerySet, Subquery, Sum

from webapp.models import Chunk, Citation, Collection, Document, DocumentVersion, Run, RunEvent, Team

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
        version_pk=Subquery(newest.values("pk")[:1]),
        state=Subquery(newest.values("state")[:1]),
        error=Subquery(newest.values("error")[:1]),
        n_chunks=Subquery(newest.values("n_chunks")[:1]),
        pages=Subquery(newest.values("pages")[:1]),
        size_bytes=Subquery(newest.values("size_bytes")[:1]),
        number=Subquery(newest.values("number")[:1]),
        read_at=Subquery(newest.values("created_at")[:1]),
        live_number=Subquery(_versions(state=State.LIVE).values("number")[:1]),
    )


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is being read in a collection now, and how the last run ended."""

    runs: list[Run]
    """Runs that are not over."""
    failed: Run | None
    """The newest run, if it failed."""
    reading: dict[int, str]
    """Document version → `reading`, `live` (read, not yet switched over) or `refused`."""


def work_of(collection: Collection) -> Work:
    runs = ingest_runs_of(collection)
    active = [run for run in runs if not run.is_over]
    events = RunEvent.objects.filter(run__in=active, name="document").order_by("pk").values_list("data", flat=True)
    failed = next((run for run in runs if run.state == Run.State.FAILED), None)
    return Work(runs=active, failed=failed, reading={int(data["id"]): str(data["state"]) for data in events})


def figures_of(collection: Collection) -> dict[str, Any]:
    """Counts for the head of the collection's page."""
    counted = collections_of(collection.team).get(pk=collection.pk)
    chunks = Chunk.objects.filter(
        version__document__collection=collection, version__document__is_deleted=False, version__state=State.LIVE
    )
    cited = Citation.objects.filter(version__document__collection=collection, is_cited=True)
    return {
        "n_documents": counted.n_documents, "n_refused": counted.n_refused, "n_waiting": counted.n_waiting,
        "n_chunks": counted.n_chunks or 0, "mean_tokens": chunks.aggregate(mean=Avg("n_tokens"))["mean"],
        "n_citing": cited.values("message").distinct().count(),
    }  # fmt: skip


def store_figures(team: Team) -> dict[str, int]:
    """Totals over the team's collections."""
    live = DocumentVersion.objects.for_team(team).filter(state=State.LIVE, document__is_deleted=False)
    total = live.aggregate(n_documents=Count("pk"), n_chunks=Sum("n_chunks"), n_bytes=Sum("size_bytes"))
    return {name: value or 0 for name, value in total.items()}


def preview_of(collection: Collection, *, n: int = 3) -> dict[str, Any] | None:
    """Some neighbouring chunks of a document, each with the overlap to its neighbours apart."""
    version = (
        DocumentVersion.objects.filter(
            document__collection=collection, document__is_deleted=False, state=State.LIVE, n_chunks__gt=0
        )
        .select_related("document")
        .defer("text", "pages")
        .order_by("-n_chunks")
        .first()
    )
    if version is None:
        return None
    chunks = list(version.chunks.order_by("number")[: n + 1])
    return {"version": version, "chunks": [_cut(chunks, place) for place in range(min(n, len(chunks)))]}


def _cut(chunks: list[Chunk], place: int) -> dict[str, Any]:
    chunk = chunks[place]
    before = max(0, chunks[place - 1].end - chunk.start) if place else 0
    after = max(0, chunk.end - chunks[place + 1].start) if place + 1 < len(chunks) else 0
    n = len(chunk.text)
    middle = max(before, n - after)
    return {
        "chunk": chunk, "before": chunk.text[:before], "own": chunk.text[before:middle], "after": chunk.text[middle:]
    }  # fmt: skip


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


def some_chunks(collection: Collection, n: int) -> list[str]:
    """Texts of `n` chunks that answers may stand on, of one document after another."""
    live = Chunk.objects.filter(version__document__collection=collection, version__document__is_deleted=False,
                                version__state=State.LIVE)  # fmt: skip
    return list(live.order_by("number", "version_id").values_list("text", flat=True)[:n])


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
