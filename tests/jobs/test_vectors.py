"""Vectors in a real Chroma server: searched by team, published once, swept when nobody wants them."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import embedded, vectors
from ml.errors import DataError, UnavailableError
from tests.jobs.chroma_fixture import chroma_url
from tests.jobs.ingest_fixture import axis, ingested, publish, write_output
from webapp.models import Collection, Installation, Run, Team
from webapp.services.collections import collection_create, collection_delete, collection_reindex, document_delete

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("chroma_url", "no_broker")]
__all__ = ["chroma_url"]


@pytest.fixture
def no_broker(monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path) -> None:
    """Runs stay in the outbox; files go to a folder of the test's own."""
    monkeypatch.setattr("webapp.services.runs.enqueue", lambda kind, run_id: None)
    settings.STORAGE_DIR = tmp_path / "storage"


@pytest.fixture
def collection() -> Collection:
    team = Team.objects.create(slug="law", name="Law")
    made = collection_create(team=team, user=None, name="opinions")
    vectors.drop(made.pk)
    return made


def near(collection: Collection, place: int, n: int = 10, *, team_id: int = 0) -> list[tuple[int, float]]:
    hits = vectors.query(
        team_id=team_id or collection.team_id, collection_id=collection.pk, vector=axis(place), n=n
    )  # fmt: skip
    return [(hit.number, round(hit.score, 3)) for hit in hits]


def test_the_nearest_vectors_come_first_with_their_cosine_similarity(collection: Collection) -> None:
    rows = np.array([axis(0), axis(0, towards=1, share=1.0), axis(2)], dtype=np.float32)
    vectors.put(
        team_id=collection.team_id, collection_id=collection.pk, run_id=1, version_id=5, vectors=rows, numbers=[1, 2, 3]
    )
    assert near(collection, 0) == [(1, 1.0), (2, 0.707), (3, 0.0)]


def test_another_team_finds_nothing_in_the_collection(collection: Collection) -> None:
    vectors.put(
        team_id=collection.team_id, collection_id=collection.pk, run_id=1, version_id=5,
        vectors=np.array([axis(0)], dtype=np.float32), numbers=[1],
    )  # fmt: skip
    assert near(collection, 0, team_id=collection.team_id + 1) == []


def test_a_collection_without_vectors_finds_nothing(collection: Collection) -> None:
    assert near(collection, 0) == []
    assert vectors.count(collection.pk) == 0


def test_publishing_the_same_run_twice_stores_its_vectors_once(collection: Collection, tmp_path: Path) -> None:
    run = ingested(collection, tmp_path, {"a.md": [("one", axis(0)), ("two", axis(1))]})
    publish(run, tmp_path / f"run-{run.pk}")
    assert vectors.count(collection.pk) == 2


def test_more_vectors_than_one_request_may_hold_are_stored(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "BATCH", 3)
    rows = np.eye(8, dtype=np.float32)
    vectors.put(
        team_id=collection.team_id, collection_id=collection.pk, run_id=1, version_id=5, vectors=rows,
        numbers=list(range(1, 9)),
    )  # fmt: skip
    assert vectors.count(collection.pk) == 8


def test_output_that_is_not_whole_is_refused(collection: Collection, tmp_path: Path) -> None:
    run = ingested(collection, tmp_path, {"a.md": [("one", axis(0))]})
    (tmp_path / f"run-{run.pk}" / "vectors.safetensors").unlink()
    with pytest.raises(DataError, match="is not whole"):
        vectors.publish(run, tmp_path / f"run-{run.pk}")


def test_a_run_of_a_deleted_collection_stores_nothing(collection: Collection, tmp_path: Path) -> None:
    run, pk = ingested(collection, tmp_path, {"a.md": [("one", axis(0))]}), collection.pk
    collection_delete(collection=collection, user=None)
    vectors.drop(pk)
    assert vectors.publish(run, tmp_path / f"run-{run.pk}") == 0
    assert vectors.count(pk) == 0


def test_a_sweep_removes_deleted_replaced_and_orphaned_vectors_only(collection: Collection, tmp_path: Path) -> None:
    ingested(collection, tmp_path, {"kept.md": [("kept", axis(0))], "gone.md": [("gone", axis(1))]})
    ingested(collection, tmp_path, {"kept.md": [("newer", axis(2)), ("still", axis(3))]})
    document_delete(document=collection.documents.get(title="gone.md"), user=None)
    assert vectors.count(collection.pk) == 4
    assert vectors.sweep() == 2
    assert sorted(near(collection, 2)) == [(1, 1.0), (2, 0.0)]
    assert vectors.sweep() == 0


def test_a_sweep_leaves_a_run_alone_that_is_still_at_work(collection: Collection, tmp_path: Path) -> None:
    ingested(collection, tmp_path, {"a.md": [("one", axis(0))]})
    run = collection_reindex(collection=collection, user=None)
    out = write_output(tmp_path / "again", {run.spec["documents"][0]["id"]: [("one", axis(4))]})
    vectors.publish(run, out)
    vectors.sweep()
    assert vectors.count(collection.pk) == 2
    Run.objects.filter(pk=run.pk).update(state=Run.State.CANCELLED)
    vectors.sweep()
    assert near(collection, 0) == [(1, 1.0)]


def test_a_sweep_drops_the_vectors_of_a_deleted_collection(collection: Collection, tmp_path: Path) -> None:
    ingested(collection, tmp_path, {"a.md": [("one", axis(0))]})
    pk = collection.pk
    collection_delete(collection=collection, user=None)
    vectors.sweep()
    assert vectors.count(pk) == 0


def test_a_store_that_is_down_is_said_to_be(collection: Collection, chroma_url: str) -> None:
    vectors.configure(f"http://127.0.0.1:{embedded.free_port()}")
    try:
        with pytest.raises(UnavailableError, match="the vector store does not answer"):
            near(collection, 0)
    finally:
        vectors.configure(chroma_url)


def test_a_sweep_leaves_the_vectors_of_another_installation_alone(collection: Collection) -> None:
    """Two installations once shared a vector store by its default port; the sweep of one dropped all of the other's
    collections, because their ids were unknown in its own database. Answers then found no evidence at all."""
    vectors.put(
        team_id=collection.team_id, collection_id=collection.pk, run_id=1, version_id=5,
        vectors=np.array([axis(0)], dtype=np.float32), numbers=[1],
    )  # fmt: skip
    name = vectors.name_of(collection.pk)
    Installation.objects.update(key=uuid.uuid4())
    vectors.sweep()
    assert name in [store.name for store in vectors.client().list_collections()]
