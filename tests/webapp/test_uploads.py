"""Bringing a file: what is kept, what is refused, what the pages say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from ml.errors import UnavailableError
from tests.webapp.uploading import CSV, MAPPING, bring, file_named, inspect, rung, store
from webapp import storage
from webapp.models import AuditEvent, Upload
from webapp.services import uploads

pytestmark = pytest.mark.django_db(transaction=True)
__all__ = ["bring", "rung", "store"]
JSON = {"headers": {"Accept": "application/json"}}
Bring = Callable[..., Upload]


@pytest.fixture
def client(member: Any, client_of: Callable[[Any], Client], store: Path, rung: list[int]) -> Client:
    return client_of(member)


def post_file(client: Client, name: str, content: str | bytes = CSV, **kwargs: Any) -> Any:
    return client.post("/datasets/uploads/", {"file": file_named(name, content)}, **kwargs)


def test_a_file_is_kept_under_a_uuid_and_a_worker_is_asked(client: Client, rung: list[int]) -> None:
    response = post_file(client, "../../tickets.csv")
    upload = Upload.objects.get()
    assert response["Location"] == f"/datasets/uploads/{upload.pk}/"
    assert (upload.filename, upload.size_bytes, upload.state) == ("tickets.csv", len(CSV), "reading")
    assert storage.path_of(upload.storage_key).read_text() == CSV
    assert storage.path_of(upload.storage_key).name == str(upload.key)
    assert rung == [upload.pk]
    assert AuditEvent.objects.filter(action="upload.create").count() == 1


def test_the_pages_script_gets_the_next_address_as_json(client: Client) -> None:
    response = post_file(client, "tickets.csv", **JSON)
    assert response.json() == {"url": f"/datasets/uploads/{Upload.objects.get().pk}/"}


def test_pasted_rows_are_a_file_too(client: Client) -> None:
    client.post("/datasets/uploads/", {"pasted": '{"text": "a", "label": "b"}'})
    assert Upload.objects.get().filename == "pasted.jsonl"


@pytest.mark.parametrize(
    ("name", "content", "status", "words"),
    [
        ("tickets.xlsx", b"PK\x03\x04", 415, "is not CSV, TSV, JSONL, JSON or Parquet"),
        ("tickets.csv", b"PK\x03\x04", 415, "ZIP archive"),
        ("tickets.csv", b"", 400, "empty"),
        ("tickets.exe", b"text,label", 415, "is not CSV"),
    ],
)
def test_a_refused_file_leaves_nothing_and_says_why(
    client: Client, store: Path, name: str, content: bytes, status: int, words: str
) -> None:
    response = post_file(client, name, content)
    assert response.status_code == status
    assert words in response.content.decode()
    assert not Upload.objects.exists()
    assert not list((store / "storage").glob("uploads/*"))
    assert words in post_file(client, name, content, **JSON).json()["error"]["message"]


def test_too_many_bytes_are_413_and_leave_nothing(client: Client, settings: Any, store: Path) -> None:
    settings.MAX_UPLOAD_BYTES = 1024
    response = post_file(client, "tickets.csv", CSV * 10)
    assert response.status_code == 413
    assert not Upload.objects.exists()


def test_nothing_chosen_is_said(client: Client) -> None:
    response = client.post("/datasets/uploads/", {})
    assert (response.status_code, b"No file was chosen" in response.content) == (400, True)


def test_the_same_bytes_are_stored_once(client: Client, store: Path) -> None:
    first = post_file(client, "tickets.csv")
    second = post_file(client, "copy.csv")
    assert first["Location"] == second["Location"]
    assert Upload.objects.count() == 1
    assert len(list((store / "storage" / "uploads").iterdir())) == 1


def test_the_same_bytes_of_another_team_are_another_upload(
    client: Client, stranger: Any, client_of: Callable[[Any], Client]
) -> None:
    post_file(client, "tickets.csv")
    post_file(client_of(stranger), "tickets.csv")
    assert Upload.objects.count() == 2


def test_a_broker_that_is_away_keeps_the_file_and_offers_to_try_again(
    client: Client, rung: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(pk: int) -> None:
        raise UnavailableError("The queue does not answer.")

    ring = uploads.enqueue_inspect
    monkeypatch.setattr(uploads, "enqueue_inspect", away)
    page = post_file(client, "tickets.csv", follow=True).content.decode()
    assert "The queue does not answer." in page
    assert "Try again" in page
    upload = Upload.objects.get()
    monkeypatch.setattr(uploads, "enqueue_inspect", ring)
    client.post(f"/datasets/uploads/{upload.pk}/again/")
    upload.refresh_from_db()
    assert (upload.error, rung) == (None, [upload.pk])


def test_the_reconciler_asks_again_for_a_file_that_nobody_looked_at_and_gives_up_in_the_end(
    client: Client, rung: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    post_file(client, "tickets.csv")
    assert uploads.uploads_ask_again() == 0
    monkeypatch.setattr(uploads, "ASK_AGAIN_AFTER_S", -1)
    assert [uploads.uploads_ask_again() for _ in range(5)] == [1, 1, 1, 0, 0]
    assert len(rung) == uploads.MAX_ASKED
    upload = Upload.objects.get()
    assert (upload.state, upload.error["code"]) == ("refused", "reader_died")


def test_the_page_waits_and_then_moves_on_by_itself(client: Client) -> None:
    post_file(client, "tickets.csv")
    upload = Upload.objects.get()
    state = f"/datasets/uploads/{upload.pk}/state/"
    assert b"being read" in client.get(state).content
    inspect(upload.pk)
    assert client.get(state)["HX-Refresh"] == "true"


def test_the_mapping_page_shows_columns_a_suggestion_and_rows_as_the_model_sees_them(
    client: Client, bring: Bring, team: Any, member: Any
) -> None:
    upload = bring(team, member)
    assert upload.state == "ready"
    assert upload.mapping["completion"] == "{label}"
    page = client.get(f"/datasets/uploads/{upload.pk}/").content.decode()
    for words in ("text and label", "My message number 0", "&lt;|im_start|&gt;user", "60 rows", "tokens read"):
        assert words in page, words


def test_an_edited_template_is_kept_and_previewed_again(
    client: Client, bring: Bring, rung: list[int], team: Any, member: Any
) -> None:
    upload = bring(team, member)
    del rung[:]
    answer = client.post(f"/datasets/uploads/{upload.pk}/map/", {**MAPPING, "prompt": "Say the queue. {text}"})
    assert b"Rendering" in answer.content
    assert rung == [upload.pk]
    inspect(upload.pk)
    page = client.get(f"/datasets/uploads/{upload.pk}/preview/").content.decode()
    assert "Say the queue." in page
    assert "Rendering" not in page


def test_an_unknown_placeholder_is_refused_with_the_columns_there_are(
    client: Client, bring: Bring, rung: list[int], team: Any, member: Any
) -> None:
    upload = bring(team, member)
    del rung[:]
    answer = client.post(f"/datasets/uploads/{upload.pk}/map/", {**MAPPING, "prompt": "{body}"})
    assert "There is no column {body}. Known here: {text}, {label}." in answer.content.decode()
    assert rung == []


def test_rows_that_cannot_be_read_refuse_the_file_with_their_numbers(
    client: Client, bring: Bring, team: Any, member: Any
) -> None:
    upload = bring(team, member, CSV + "one cell only\n" * 30)
    assert upload.state == "refused"
    page = client.get(f"/datasets/uploads/{upload.pk}/").content.decode()
    assert "30 rows cannot be read" in page
    assert "Row 62 has 1 cells, the header has 2." in page
    assert "The first 20 of 30." in page
    client.post(f"/datasets/uploads/{upload.pk}/reopen/")
    upload.refresh_from_db()
    assert upload.state == "ready"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "text,label\n", "has a header but no rows"),
        ("a.json", '{\n "text": 1\n}', "one JSON object spread over several lines"),
        ("a.csv", " \n \n", "is empty"),
    ],
)
def test_a_file_that_cannot_be_used_at_all_is_refused_on_its_page(
    client: Client, bring: Bring, team: Any, member: Any, name: str, content: str, words: str
) -> None:
    upload = bring(team, member, content, name)
    assert upload.state == "refused"
    page = client.get(f"/datasets/uploads/{upload.pk}/").content.decode()
    assert words in page
    assert "Bring another file" in page


@pytest.mark.parametrize(
    "line", ['{"text": NaN}', '{"text": "\\ud800"}', "[" * 100_000, '{"text": "x\\u0000"}', '{"text": 1e999}']
)
def test_poisoned_lines_are_named_and_do_no_harm(
    client: Client, bring: Bring, team: Any, member: Any, line: str
) -> None:
    upload = bring(team, member, '{"text": "good", "label": "a"}\n' + line + "\n", "a.jsonl")
    assert (upload.state, upload.report["problems"][0]["row"]) == ("refused", 2)
    assert client.get(f"/datasets/uploads/{upload.pk}/").status_code == 200


def test_markup_in_names_and_cells_stays_text(client: Client, bring: Bring, team: Any, member: Any) -> None:
    bad = "<script>alert(1)</script>"
    upload = bring(team, member, f"text,{bad}\n{bad},a\n{bad} too,b\n", f"{bad}.csv")
    page = client.get(f"/datasets/uploads/{upload.pk}/").content.decode()
    assert bad not in page
    assert "&lt;script&gt;" in page


def test_a_file_that_was_not_used_can_be_removed(
    client: Client, bring: Bring, team: Any, member: Any, store: Path
) -> None:
    upload = bring(team, member)
    client.post(f"/datasets/uploads/{upload.pk}/discard/")
    assert not Upload.objects.exists()
    assert not list((store / "storage" / "uploads").iterdir())


def test_a_viewer_brings_nothing(viewer: Any, client_of: Callable[[Any], Client], store: Path, rung: list[int]) -> None:
    assert post_file(client_of(viewer), "tickets.csv").status_code == 403
    assert client_of(viewer).get("/datasets/new/").status_code == 403


def test_reading_never_changes_anything(client: Client, bring: Bring, team: Any, member: Any) -> None:
    upload = bring(team, member)
    before = json.dumps(list(Upload.objects.values("state", "mapping", "report", "preview")))
    for tail in ("", "state/", "preview/"):
        client.get(f"/datasets/uploads/{upload.pk}/{tail}")
    for tail in ("map/", "again/", "reopen/", "discard/", "create/"):
        assert client.get(f"/datasets/uploads/{upload.pk}/{tail}").status_code == 405
    assert json.dumps(list(Upload.objects.values("state", "mapping", "report", "preview"))) == before
