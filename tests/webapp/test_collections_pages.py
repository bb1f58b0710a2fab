"""Pages of collections and documents: forms, passages, downloads, the retrieval test box."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from ml.errors import UnavailableError
from tests.ml.retrieval.make_pdf import pdf_with
from tests.webapp.collections_fixture import add, collection, own_storage, publish, upload
from webapp.models import Chunk, Collection, DocumentVersion
from webapp.selectors.passages import passages_of
from webapp.services.collections import (
    documents_add,
)

SignIn = Callable[[Any], Client]
State = DocumentVersion.State
pytestmark = pytest.mark.django_db

__all__ = ["collection", "own_storage"]


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
