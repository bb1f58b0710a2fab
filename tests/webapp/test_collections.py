"""Collections and documents in the web: what is taken in, what is refused where, what a page shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from ml.errors import DataError, SpecError
from tests.jobs.ingest_fixture import axis
from tests.ml.retrieval.make_pdf import pdf_with
from tests.webapp.collections_fixture import add, collection, own_storage, publish
from webapp import document_files, storage
from webapp.document_files import safe_name
from webapp.models import Chunk, Collection, DocumentVersion, Outbox, Run, Team
from webapp.services.collections import (
    collection_create,
    collection_delete,
    collection_reindex,
    collection_update,
    document_delete,
    documents_add,
    ingest_run_over,
)

SignIn = Callable[[Any], Client]
State = DocumentVersion.State
pytestmark = pytest.mark.django_db

__all__ = ["collection", "own_storage"]


# What is taken in


def test_added_documents_are_stored_by_content_and_read_in_one_run(collection: Collection) -> None:
    added = add(collection, a_md=b"# One", b_txt=b"Two")
    assert [version.state for version in added.versions] == [State.WAITING, State.WAITING]
    version = added.versions[0]
    assert storage.path_of(version.storage_key).read_bytes() == b"# One"
    run = Run.objects.get()
    assert run.spec == {
        "kind": "ingest", "collection_id": collection.pk, "chunk": {"size": 160, "overlap": 32},
        "embedder": "minilm-l6",
        "documents": [{"id": v.pk, "source": v.storage_key, "filename": v.filename} for v in added.versions],
    }  # fmt: skip
    assert Outbox.objects.filter(run=run).exists()
    assert set(DocumentVersion.objects.values_list("run", flat=True)) == {run.pk}


def test_the_same_bytes_twice_are_one_document(collection: Collection) -> None:
    add(collection, a_md=b"# One")
    again = add(collection, b_md=b"# One", a_md=b"# One")
    assert again.versions == [] and again.run is None
    assert again.same == [
        "b.md is in this collection already, under the name a.md.",
        "a.md is in this collection already, exactly as it is.",
    ]
    assert collection.documents.count() == 1


def test_two_equal_files_in_one_upload_are_one_document(collection: Collection) -> None:
    added = add(collection, a_md=b"# One", b_md=b"# One")
    assert (len(added.versions), len(added.same)) == (1, 1)


def test_a_known_name_with_other_bytes_is_a_new_version(collection: Collection) -> None:
    add(collection, a_md=b"# One")
    add(collection, a_md=b"# Two")
    assert list(collection.documents.get().versions.values_list("number", flat=True)) == [2, 1]


def test_the_same_bytes_in_another_teams_collection_are_no_secret(collection: Collection, other_team: Team) -> None:
    theirs = collection_create(team=other_team, user=None, name="theirs")
    add(collection, a_md=b"# One")
    assert len(add(theirs, a_md=b"# One").versions) == 1


def test_one_bad_file_is_refused_by_name_and_the_others_are_taken(collection: Collection) -> None:
    added = add(collection, a_md=b"# One", b_pdf=b"no pdf at all", c_exe=b"MZ", d_txt=b"")
    assert [version.filename for version in added.versions] == ["a.md"]
    assert [(error.status, error.message.split(" ")[0].rstrip(":")) for error in added.refused] == [
        (415, "b.pdf"), (415, "c.exe"), (400, "d.txt")
    ]  # fmt: skip


def test_an_oversized_file_is_413_and_its_bytes_are_not_kept(
    collection: Collection, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(document_files, "MAX_DOCUMENT_BYTES", 1000)
    with pytest.raises(DataError) as caught:
        add(collection, a_txt=b"x" * 1001)
    assert caught.value.status == 413
    assert not list(Path(settings.STORAGE_DIR).rglob("*"))


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.pdf", b"# Markdown"), ("a.md", pdf_with(["Hello"])), ("a.txt", b"PK\x03\x04" + b"x" * 99),
     ("a.txt", b"\x89PNG\r\n\x1a\n"), ("a.md", bytes(range(32)) * 40), ("a.docx", b"PK\x03\x04"), ("noending", b"x")],
)  # fmt: skip
def test_bytes_that_are_not_what_the_name_says_are_415(collection: Collection, name: str, data: bytes) -> None:
    with pytest.raises(DataError) as caught:
        documents_add(collection=collection, user=None, files=[(name, data)])
    assert caught.value.status == 415
    assert name in caught.value.message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_wide_text_is_no_binary(collection: Collection, encoding: str) -> None:
    assert add(collection, a_txt=("All human beings. " * 9).encode(encoding)).versions


@pytest.mark.parametrize(
    ("given", "shown"),
    [("../../etc/passwd.txt", "passwd.txt"), ("C:\\x\\a.md", "a.md"), ("a\x00b\u202etxt.md", "abtxt.md"),
     ("n" * 4000 + ".pdf", "n" * 116 + ".pdf"), ("  ", "document"), ("a\n b.md", "a b.md")],
)  # fmt: skip
def test_file_names_are_made_safe_to_show(given: str, shown: str) -> None:
    assert safe_name(given) == shown


# Publishing


def test_publishing_makes_chunks_live_and_refuses_what_could_not_be_read(
    collection: Collection, tmp_path: Path
) -> None:
    run = add(collection, a_md=b"# One", b_md=b"# Two").run
    good, bad = (document["id"] for document in run.spec["documents"])
    publish(
        run, tmp_path, {good: [("one", axis(0)), ("two", axis(1))], bad: {"code": "no_text", "message": "Nothing."}}
    )
    version = DocumentVersion.objects.get(pk=good)
    assert (version.state, version.n_chunks, version.text) == (State.LIVE, 2, "one\ntwo\n")
    assert all(version.text[chunk.start : chunk.end] == chunk.text for chunk in version.chunks.all())
    refused = DocumentVersion.objects.get(pk=bad)
    assert (refused.state, refused.error["message"]) == (State.REFUSED, "Nothing.")


def test_publishing_twice_gives_the_same_rows(collection: Collection, tmp_path: Path) -> None:
    run = add(collection, a_md=b"# One").run
    publish(run, tmp_path, ["one", "two"])
    publish(run, tmp_path, ["one", "two"])
    assert list(Chunk.objects.values_list("number", "text")) == [(1, "one"), (2, "two")]


def test_a_new_version_goes_live_only_when_it_was_read(collection: Collection, tmp_path: Path) -> None:
    publish(add(collection, a_md=b"# One").run, tmp_path, ["one"])
    run = add(collection, a_md=b"# Two").run
    states = DocumentVersion.objects.order_by("number").values_list("state", flat=True)
    assert list(states) == [State.LIVE, State.WAITING]
    publish(run, tmp_path, ["two"])
    assert list(states.all()) == [State.REPLACED, State.LIVE]


def test_an_older_version_read_late_does_not_replace_a_newer_one(collection: Collection, tmp_path: Path) -> None:
    first, second = add(collection, a_md=b"# One").run, add(collection, a_md=b"# Two").run
    publish(second, tmp_path, ["two"])
    publish(first, tmp_path, ["one"])
    states = DocumentVersion.objects.order_by("number").values_list("state", flat=True)
    assert list(states) == [State.REPLACED, State.LIVE]


def test_a_document_deleted_while_it_is_read_does_not_come_back(collection: Collection, tmp_path: Path) -> None:
    run = add(collection, a_md=b"# One").run
    document_delete(document=collection.documents.get(), user=None)
    publish(run, tmp_path, ["one"])
    assert not Chunk.objects.exists()


def test_a_failed_run_leaves_its_documents_refused_with_the_reason(collection: Collection) -> None:
    run = add(collection, a_md=b"# One").run
    run.error = {"code": "unavailable", "message": "The store was away.", "hint": ""}
    ingest_run_over(run=run)
    version = DocumentVersion.objects.get()
    assert (version.state, version.error["message"]) == (State.REFUSED, "The store was away.")
    assert add(collection, a_md=b"# One").versions == [version]


def test_a_failed_reindex_leaves_what_is_live(collection: Collection, tmp_path: Path) -> None:
    publish(add(collection, a_md=b"# One").run, tmp_path, ["one"])
    ingest_run_over(run=collection_reindex(collection=collection, user=None))
    assert DocumentVersion.objects.get().state == State.LIVE


# Settings


def test_cutting_differently_reads_all_documents_anew_and_other_changes_do_not(
    collection: Collection, tmp_path: Path
) -> None:
    publish(add(collection, a_md=b"# One").run, tmp_path, ["one"])
    assert collection_update(collection=collection, user=None, top_k=6, refusal="Not here.") is None
    run = collection_update(collection=collection, user=None, chunk_size=96)
    assert run is not None and run.spec["chunk"] == {"size": 96, "overlap": 32}
    assert DocumentVersion.objects.get().state == State.LIVE


@pytest.mark.parametrize(
    ("change", "field"),
    [({"chunk_size": 4}, "chunk_size"), ({"chunk_size": 9000}, "chunk_size"), ({"chunk_overlap": 100}, "chunk_overlap"),
     ({"threshold": float("nan")}, "threshold"), ({"top_k": 0}, "top_k"), ({"refusal": " "}, "refusal"),
     ({"name": "No Spaces"}, "name"), ({"colour": 1}, "colour")],
)  # fmt: skip
def test_impossible_settings_are_refused_by_field(collection: Collection, change: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        collection_update(collection=collection, user=None, **change)
    assert caught.value.field == field
    collection.refresh_from_db()
    assert collection.chunk_size == 160


def test_a_taken_name_is_refused_and_another_team_may_have_it(collection: Collection, other_team: Team) -> None:
    with pytest.raises(SpecError, match="There is a collection opinions"):
        collection_create(team=collection.team, user=None, name="opinions")
    assert collection_create(team=other_team, user=None, name="opinions").pk


def test_deleting_a_collection_cancels_what_is_being_read(collection: Collection) -> None:
    run = add(collection, a_md=b"# One").run
    collection_delete(collection=collection, user=None)
    run.refresh_from_db()
    assert run.state == Run.State.CANCELLED
    assert not DocumentVersion.objects.exists()
