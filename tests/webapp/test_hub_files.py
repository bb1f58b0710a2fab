"""A file of a hub: asked for on the page, kept as an upload when its run has fetched it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.webapp.uploading import CSV, rung, store
from webapp import storage
from webapp.models import Run, Upload
from webapp.services.datasets import version_publish, version_run_over
from webapp.services.uploads import uploads_ask_again

pytestmark = pytest.mark.django_db
__all__ = ["rung", "store"]


@pytest.fixture
def asked(member: Any, client_of: Any, store: Path, rung: Any) -> Upload:
    client_of(member).post("/datasets/uploads/hub/", {"repo": "team/rows", "file": "data/train.csv"})
    return Upload.objects.get()


def fetched(run: Run, folder: Path, content: bytes, name: str = "data/train.csv") -> None:
    """What the run's child leaves."""
    folder.mkdir()
    (folder / "fetched").write_bytes(content)
    about = {"repo": "team/rows", "file": name, "commit": "c" * 40, "bytes": len(content)}
    (folder / "fetched.json").write_text(json.dumps(about))
    version_publish(run=run, out=folder / "fetched")


def test_a_run_is_asked_for_the_file_and_its_page_waits(asked: Upload, member: Any, client_of: Any) -> None:
    run = Run.objects.get()
    assert {key: run.spec[key] for key in ("kind", "repo", "file")} == {
        "kind": "fetch", "repo": "team/rows", "file": "data/train.csv"
    }  # fmt: skip
    assert "Fetching team/rows" in client_of(member).get(f"/datasets/uploads/{asked.pk}/").content.decode()


def test_what_came_is_an_upload_like_any_other(
    asked: Upload, store: Path, rung: list[int], django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        fetched(Run.objects.get(), store / "w", CSV.encode())
    asked.refresh_from_db()
    assert (asked.filename, asked.size_bytes, asked.state) == ("train.csv", len(CSV), "reading")
    assert storage.path_of(asked.storage_key).read_text() == CSV
    assert rung == [asked.pk]


def test_what_is_no_data_file_is_refused_and_not_kept(asked: Upload, store: Path) -> None:
    fetched(Run.objects.get(), store / "w", b"PK\x03\x04zip")
    asked.refresh_from_db()
    assert asked.state == "refused"
    assert "ZIP" in asked.error["message"]
    assert not storage.exists(asked.storage_key)


def test_a_hub_that_does_not_answer_is_said_on_the_page(asked: Upload, member: Any, client_of: Any) -> None:
    run = Run.objects.get()
    Run.objects.filter(pk=run.pk).update(state="failed", error={"message": "The hub does not answer.", "hint": "x"})
    run.refresh_from_db()
    version_run_over(run=run)
    page = client_of(member).get(f"/datasets/uploads/{asked.pk}/").content.decode()
    assert "The hub does not answer." in page
    assert "Read it again" not in page


def test_nobody_is_asked_to_look_at_a_file_that_has_not_come(asked: Upload, rung: list[int]) -> None:
    assert uploads_ask_again() == 0
    assert rung == []


@pytest.mark.parametrize("repo", ["", "../etc", "/root", "a\x00b", "x" * 300])
def test_impossible_names_are_refused_and_what_was_typed_stays(
    repo: str, member: Any, client_of: Any, store: Path, rung: Any
) -> None:
    answer = client_of(member).post("/datasets/uploads/hub/", {"repo": repo, "file": "kept.csv"})
    assert answer.status_code == 400
    assert b"kept.csv" in answer.content
    assert not Upload.objects.exists()


def test_a_viewer_fetches_nothing(viewer: Any, client_of: Any) -> None:
    assert client_of(viewer).post("/datasets/uploads/hub/", {"repo": "team/rows"}).status_code == 403
