"""Retrieval: live chunks of the asking team only, the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs import retrieve, vectors
from ml.errors import NotFoundError
from tests.jobs.chroma_fixture import chroma_url
from tests.jobs.ingest_fixture import axis, ingested, write_output
from tests.jobs.test_vectors import no_broker
from webapp.models import Chunk, Collection, DocumentVersion, Team
from webapp.services.collections import collection_create, collection_reindex, document_delete, ingest_publish

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("chroma_url", "no_broker", "axes")]
__all__ = ["chroma_url", "no_broker"]
CANARY = "the canary sings at noon"


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question is the number of an axis."""

    def embed(texts: Sequence[str], *, embedder: str = "") -> list[list[float]]:
        return [axis(int(text)) for text in texts]

    monkeypatch.setattr(retrieve, "embed", embed)


@pytest.fixture
def collection() -> Collection:
    made = collection_create(
        team=Team.objects.create(slug="law", name="Law"), user=None, name="opinions", top_k=2, threshold=0.3
    )
    vectors.drop(made.pk)
    return made


def texts(collection: Collection, question: str, **changes: Any) -> list[str]:
    wanted = {"team_id": collection.team_id, "collection_id": collection.pk, "query": question} | changes
    return [hit["text"] for hit in retrieve.search(**wanted)]


def test_a_hit_says_all_that_a_citation_needs(collection: Collection, tmp_path: Path) -> None:
    ingested(collection, tmp_path, {"a.md": [("one", axis(0)), ("two", axis(1))]})
    chunk = Chunk.objects.get(text="two")
    assert retrieve.search(team_id=collection.team_id, collection_id=collection.pk, query="1") == [
        {"n": 1, "document_id": chunk.version.document_id, "document_version_id": chunk.version_id,
         "chunk_id": chunk.pk, "title": "a.md", "page": None, "start": 4, "end": 7, "score": 1.0, "text": "two",
         "number": 2}
    ]  # fmt: skip


def test_at_most_k_chunks_above_the_threshold_come_back(collection: Collection, tmp_path: Path) -> None:
    chunks = [(f"c{i}", axis(0, towards=i + 1, share=share)) for i, share in enumerate((0.0, 0.5, 1.0, 9.0))]
    ingested(collection, tmp_path, {"a.md": chunks})
    assert texts(collection, "0") == ["c0", "c1"]
    assert texts(collection, "0", k=10) == ["c0", "c1", "c2"]
    assert texts(collection, "0", k=10, threshold=0.8) == ["c0", "c1"]
    assert texts(collection, "7") == []


def test_another_team_gets_no_collection_and_no_canary(collection: Collection, tmp_path: Path) -> None:
    ingested(collection, tmp_path, {"a.md": [(CANARY, axis(0))]})
    other = Team.objects.create(slug="other", name="Other")
    with pytest.raises(NotFoundError):
        texts(collection, "0", team_id=other.pk)
    theirs = collection_create(team=other, user=None, name="theirs")
    ingested(theirs, tmp_path, {"b.md": [("their own", axis(0))]})
    assert texts(theirs, "0", k=20, threshold=-1) == ["their own"]


def test_a_deleted_document_is_out_of_the_very_next_search(collection: Collection, tmp_path: Path) -> None:
    ingested(collection, tmp_path, {"a.md": [("gone", axis(0))], "b.md": [("kept", axis(0, towards=1, share=0.2))]})
    assert texts(collection, "0") == ["gone", "kept"]
    document_delete(document=collection.documents.get(title="a.md"), user=None)
    assert texts(collection, "0") == ["kept"]


def test_a_new_version_replaces_the_old_one_in_searches(collection: Collection, tmp_path: Path) -> None:
    ingested(collection, tmp_path, {"a.md": [("old", axis(0))]})
    ingested(collection, tmp_path, {"a.md": [("new", axis(0))]})
    assert texts(collection, "0", k=5) == ["new"]


def test_the_old_chunks_answer_until_a_reindex_is_published(collection: Collection, tmp_path: Path) -> None:
    """Both indexes lie in the store for a while; a vector of the new one must not name an old chunk."""
    ingested(collection, tmp_path, {"a.md": [("old one", axis(0)), ("old two", axis(1))]})
    run = collection_reindex(collection=collection, user=None)
    version = DocumentVersion.objects.get()
    out = write_output(tmp_path / "again", {version.pk: [("new whole", axis(1))]})
    vectors.publish(run, out)
    assert texts(collection, "1", k=5) == ["old two"]
    ingest_publish(run=run, out=out)
    assert texts(collection, "1", k=5) == ["new whole"]


def test_many_dead_vectors_do_not_hide_the_live_ones(collection: Collection, tmp_path: Path) -> None:
    dead = [(f"dead {i}", axis(0, towards=1, share=i / 1000)) for i in range(60)]
    ingested(collection, tmp_path, {"a.md": dead, "b.md": [("alive", axis(0, towards=1, share=0.5))]})
    document_delete(document=collection.documents.get(title="a.md"), user=None)
    assert texts(collection, "0") == ["alive"]


def test_the_refusal_is_the_collections_own(collection: Collection) -> None:
    assert retrieve.refusal_of(team_id=collection.team_id, collection_id=collection.pk) == collection.refusal
    with pytest.raises(NotFoundError):
        retrieve.refusal_of(team_id=collection.team_id + 1, collection_id=collection.pk)


def test_tokens_of_embedded_texts_are_counted_as_the_model_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting:
        max_tokens = 4

        def lengths(self, texts: Sequence[str]) -> list[int]:
            return [len(text) for text in texts]

    monkeypatch.setattr(retrieve, "_embedder", lambda *_: Counting())
    found = retrieve.embed_counted(["1", "00002"])
    assert found == {"vectors": [axis(1), axis(2)], "n_tokens": 5, "cut": [1], "most": 4}
