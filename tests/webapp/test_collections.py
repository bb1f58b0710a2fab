"""Collections and documents in the web: what is taken in, what is refused where, what a page shows."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from ml.errors import DataError, SpecError, UnavailableError
from tests.jobs.ingest_fixture import axis, write_output
from tests.ml.retrieval.make_pdf import pdf_with
from webapp import document_files, storage
from webapp.document_files import safe_name
from webapp.models import Chunk, Collection, DocumentVersion, Outbox, Run, Team
from webapp.selectors.passages import passages_of
from webapp.services.collections import (
    collection_create,
    collection_delete,
    collection_reindex,
    collection_update,
    document_delete,
    documents_add,
    ingest_publish,
    ingest_run_over,
)

SignIn = Callable[[Any], Client]
State = DocumentVersion.State
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def own_storage(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.STORAGE_DIR = tmp_path / "storage"
    monkeypatch.setattr("webapp.services.runs.enqueue", lambda kind, run_id: None)


@pytest.fixture
def collection(team: Team, member: Any) -> Collection:
    return collection_create(team=team, user=member, name="opinions", description="Trees and fences")


def add(collection: Collection, **files: bytes) -> Any:
    """`a_md=b"…"` adds a.md."""
    named = [(name.replace("_", "."), data) for name, data in files.items()]
    return documents_add(collection=collection, user=None, files=named)


def publish(run: Run, folder: Path, chunks: dict[int, Any] | list[str]) -> None:
    documents = chunks if isinstance(chunks, dict) else {
        document["id"]: [(text, axis(0)) for text in chunks] for document in run.spec["documents"]
    }  # fmt: skip
    ingest_publish(run=run, out=write_output(folder / f"run-{run.pk}", documents))
    Run.objects.filter(pk=run.pk).update(state=Run.State.SUCCEEDED)


def upload(name: str, data: bytes) -> SimpleUploadedFile:
    return SimpleUploadedFile(name, data)


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


# Pages


def test_a_collection_is_made_with_its_first_documents_on_one_form(client_of: SignIn, member: Any) -> None:
    given = {"name": "leases", "description": "", "files": [upload("a.md", b"# One"), upload("b.md", b"# Two")]}
    response = client_of(member).post(reverse("collections:create"), given, follow=True)
    assert response.status_code == 200
    assert Collection.objects.get(name="leases").documents.count() == 2
    assert "Being read: a.md, b.md" in response.content.decode()


def test_a_refused_form_keeps_what_was_typed(client_of: SignIn, member: Any) -> None:
    response = client_of(member).post(reverse("collections:create"), {"name": "Not A Slug", "description": "Kept text"})
    page = response.content.decode()
    assert response.status_code == 400
    assert "Kept text" in page and "Got &#x27;Not A Slug&#x27;" in page


def test_a_wrong_file_is_said_at_the_upload_with_its_status(
    client_of: SignIn, member: Any, collection: Collection
) -> None:
    url = reverse("collections:add", args=[collection.pk])
    client = client_of(member)
    response = client.post(url, {"files": [upload("a.pdf", b"hello")]})
    assert response.status_code == 415
    assert "a.pdf is no PDF" in response.content.decode()
    assert client.post(url, {"files": [upload("a.txt", b"")]}).status_code == 400
    assert client.post(url, {}).status_code == 400
    assert not collection.documents.exists()


def test_viewers_read_and_may_not_write(client_of: SignIn, viewer: Any, collection: Collection) -> None:
    client = client_of(viewer)
    page = client.get(reverse("collections:detail", args=[collection.pk]))
    assert page.status_code == 200
    assert "Add and read" not in page.content.decode()
    assert client.post(reverse("collections:add", args=[collection.pk]), {}).status_code == 403


def test_another_teams_collection_and_documents_are_404(
    client_of: SignIn, stranger: Any, collection: Collection
) -> None:
    document = add(collection, a_md=b"# One").versions[0].document
    client = client_of(stranger)
    for url in (
        reverse("collections:detail", args=[collection.pk]), reverse("collections:live", args=[collection.pk]),
        reverse("collections:search", args=[collection.pk]) + "?question=x",
        reverse("collections:document", args=[collection.pk, document.pk]),
        reverse("collections:original", args=[collection.pk, document.pk]),
    ):  # fmt: skip
        assert client.get(url).status_code == 404


def test_a_version_of_another_document_is_404(client_of: SignIn, member: Any, collection: Collection) -> None:
    one, two = add(collection, a_md=b"# One", b_md=b"# Two").versions
    url = reverse("collections:document", args=[collection.pk, one.document_id])
    assert client_of(member).get(f"{url}?version={two.pk}").status_code == 404
    assert client_of(member).get(f"{url}?version=abc").status_code == 404


def test_the_cited_passage_is_marked_in_the_document(
    client_of: SignIn, member: Any, collection: Collection, tmp_path: Path
) -> None:
    publish(add(collection, a_md=b"# One").run, tmp_path, ["The tree is common.", "<script>alert(1)</script>"])
    version = DocumentVersion.objects.get()
    url = reverse("collections:document", args=[collection.pk, version.document_id])
    page = client_of(member).get(f"{url}?version={version.pk}&start=4&end=8").content.decode()
    assert '<mark id="passage">tree</mark>' in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "<script>alert" not in page


@pytest.mark.parametrize(
    "query", ["start=9&end=4", "start=-1&end=3", "start=x", "start=1&end=99999999999999", "part=0"]
)
def test_a_senseless_passage_shows_the_document_unmarked(
    client_of: SignIn, member: Any, collection: Collection, tmp_path: Path, query: str
) -> None:
    publish(add(collection, a_md=b"# One").run, tmp_path, ["one"])
    url = reverse("collections:document", args=[collection.pk, collection.documents.get().pk])
    response = client_of(member).get(f"{url}?{query}")
    assert response.status_code == 200
    assert 'id="passage"' not in response.content.decode()


def test_a_citation_of_a_replaced_version_still_opens(
    client_of: SignIn, member: Any, collection: Collection, tmp_path: Path
) -> None:
    publish(add(collection, a_md=b"# One").run, tmp_path, ["as it was"])
    old = DocumentVersion.objects.get()
    publish(add(collection, a_md=b"# Two").run, tmp_path, ["as it is"])
    url = reverse("collections:document", args=[collection.pk, old.document_id])
    assert "as it is" in client_of(member).get(url).content.decode()
    page = client_of(member).get(f"{url}?version={old.pk}&start=0&end=5").content.decode()
    assert '<mark id="passage">as it</mark>' in page and "replaced meanwhile" in page


def test_a_deleted_document_says_so_and_its_text_is_gone(
    client_of: SignIn, member: Any, collection: Collection, tmp_path: Path
) -> None:
    publish(add(collection, a_md=b"# One").run, tmp_path, ["one"])
    document = collection.documents.get()
    client = client_of(member)
    client.post(reverse("collections:document_delete", args=[collection.pk, document.pk]))
    response = client.get(reverse("collections:document", args=[collection.pk, document.pk]))
    assert response.status_code == 404
    assert "a.md was deleted" in response.content.decode()
    assert not Chunk.objects.exists() and DocumentVersion.objects.get().text == ""
    assert add(collection, a_md=b"# One").versions[0].document_id != document.pk


def test_the_original_is_always_a_download(client_of: SignIn, member: Any, collection: Collection) -> None:
    version = add(collection, a_md=b"<script>alert(1)</script>").versions[0]
    response = client_of(member).get(reverse("collections:original", args=[collection.pk, version.document_id]))
    assert response.headers["Content-Disposition"] == 'attachment; filename="a.md"'
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert b"".join(response.streaming_content) == b"<script>alert(1)</script>"  # type: ignore[attr-defined]


def test_replacing_takes_one_file_whatever_its_name(client_of: SignIn, member: Any, collection: Collection) -> None:
    document = add(collection, a_md=b"# One").versions[0].document
    url = reverse("collections:replace", args=[collection.pk, document.pk])
    client = client_of(member)
    assert client.post(url, {"files": [upload("x.md", b"1"), upload("y.md", b"2")]}).status_code == 400
    assert client.post(url, {"files": [upload("x.pdf", pdf_with(["Two"]))]}).status_code == 302
    assert document.versions.count() == 2 and collection.documents.count() == 1


def test_an_engine_that_is_down_is_said_at_the_test_box(
    client_of: SignIn, member: Any, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any, **kwargs: Any) -> dict[str, Any]:
        raise UnavailableError("No engine answered search in 20 s.", hint="Look whether one is running.")

    monkeypatch.setattr("webapp.views.collections.call_service", away)
    response = client_of(member).get(reverse("collections:search", args=[collection.pk]), {"question": "Whose tree?"})
    assert response.status_code == 200
    assert "No engine answered search in 20 s." in response.content.decode()


def test_the_test_box_shows_scores_and_which_chunks_would_not_be_used(
    client_of: SignIn, member: Any, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def found(kind: str, payload: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        asked.update(payload)
        hit = {
            "document_id": 7,
            "document_version_id": 8,
            "title": "a.md",
            "page": 2,
            "start": 1,
            "end": 5,
            "number": 3,
        }
        return {"hits": [{"n": 1, "score": 0.71, "text": "near", **hit}, {"n": 2, "score": 0.1, "text": "far", **hit}]}

    monkeypatch.setattr("webapp.views.collections.call_service", found)
    page = client_of(member).get(reverse("collections:search", args=[collection.pk]), {"question": "Whose?"})
    text = page.content.decode()
    assert (asked["team_id"], asked["collection_id"], asked["query"]) == (collection.team_id, collection.pk, "Whose?")
    assert "0.71" in text and text.count("would not reach the model") == 1
    assert f"/collections/{collection.pk}/documents/7/?version=8&amp;start=1&amp;end=5#passage" in text


def test_a_collection_is_deleted_only_by_an_admin_who_typed_its_name(
    client_of: SignIn, admin: Any, member: Any, collection: Collection
) -> None:
    url = reverse("collections:delete", args=[collection.pk])
    assert client_of(member).post(url, {"name": "opinions"}).status_code == 403
    assert client_of(admin).post(url, {"name": "opinion"}).status_code == 400
    assert client_of(admin).post(url, {"name": "opinions"}).status_code == 302
    assert not Collection.objects.exists()


# The document's text in rows


def test_rows_put_together_are_the_text_and_say_which_chunk_covers_them(collection: Collection) -> None:
    version = add(collection, a_md=b"x").versions[0]
    DocumentVersion.objects.filter(pk=version.pk).update(text="aaaa bbbb cccc dddd", pages=[0, 10])
    version.refresh_from_db()
    for number, (start, end) in enumerate([(0, 9), (5, 14), (15, 19)], start=1):
        Chunk.objects.create(
            team=collection.team, version=version, number=number, text=version.text[start:end], start=start, end=end
        )
    shown = passages_of(version, mark=(7, 12))
    assert [("".join(p.text for p in row.pieces).strip(), row.side, row.page) for row in shown.rows] == [
        ("aaaa", "odd", 1), ("bbbb", "both", None), ("cccc", "even", 2), ("dddd", "odd", None)
    ]  # fmt: skip
    marked = [piece for row in shown.rows for piece in row.pieces if piece.is_marked]
    assert "".join(piece.text for piece in marked) == "bbcc"
    assert [piece.is_first_mark for piece in marked] == [True] + [False] * (len(marked) - 1)


def test_a_long_document_is_shown_in_parts_and_opens_at_the_passage(collection: Collection) -> None:
    version = add(collection, a_md=b"x").versions[0]
    text = "".join(f"chunk {n:04d} " for n in range(1, 101))
    DocumentVersion.objects.filter(pk=version.pk).update(text=text)
    version.refresh_from_db()
    Chunk.objects.bulk_create(
        Chunk(team=collection.team, version=version, number=n, text="", start=11 * (n - 1), end=11 * n)
        for n in range(1, 101)
    )
    parts = [passages_of(version, part=part) for part in (1, 2, 3)]
    shown = "".join(piece.text for part in parts for row in part.rows for piece in row.pieces)
    assert (shown, parts[0].n_parts) == (text, 3)
    assert passages_of(version, mark=(11 * 90, 11 * 91)).part == 3


def test_an_upload_of_many_megabytes_is_not_held_in_memory(collection: Collection) -> None:
    class Counting(io.BytesIO):
        largest = 0

        def read(self, size: int | None = -1) -> bytes:
            found = super().read(size)
            self.largest = max(self.largest, len(found))
            return found

    stream = Counting(b"All human beings are born free. " * 200_000)
    documents_add(collection=collection, user=None, files=[("a.txt", stream)])
    assert stream.largest <= 1 << 20
