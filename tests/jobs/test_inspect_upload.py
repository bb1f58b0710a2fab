"""A worker's look at an upload: what ends up on the upload, whatever the file or the worker does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import celery, queue
from jobs.inspect_upload import inspect
from jobs.stream_redis import client
from tests.webapp.uploading import MAPPING, bring, rung, store
from webapp import storage
from webapp.models import Team, Upload
from webapp.services.uploads import upload_map

pytestmark = pytest.mark.django_db(transaction=True)
__all__ = ["bring", "rung", "store"]
Bring = Callable[..., Upload]


@pytest.fixture
def team() -> Team:
    return Team.objects.create(slug="t", name="T")


def test_a_look_fills_the_report_and_the_preview(bring: Bring, team: Team) -> None:
    upload = bring(team, None)
    assert (upload.state, upload.report["n_rows"], upload.error) == ("ready", 60, None)
    assert upload.preview["for"] == upload.mapping
    assert upload.preview["rows"][0]["n_prompt"] > 5


def test_a_second_look_only_renders_the_new_mapping(bring: Bring, team: Team, store: Path) -> None:
    upload = bring(team, None)
    storage.delete(upload.storage_key)
    upload_map(upload=upload, mapping={**MAPPING, "prompt": "New: {text}"})
    inspect(upload.pk)
    upload.refresh_from_db()
    assert "New: " in "".join(text for _, text in upload.preview["rows"][0]["pieces"])


def test_a_mapping_that_cannot_work_is_said_in_the_preview(bring: Bring, team: Team) -> None:
    upload = bring(team, None)
    upload_map(upload=upload, mapping={**MAPPING, "prompt": "{nope}"})
    inspect(upload.pk)
    upload.refresh_from_db()
    assert "no column 'nope'" in upload.preview["error"]["message"]


def test_without_the_base_model_the_file_can_still_be_mapped(bring: Bring, team: Team, settings: Any) -> None:
    settings.BASE_MODEL = "not-fetched-yet"
    upload = bring(team, None)
    assert upload.state == "ready"
    assert "tokenizer" in upload.preview["error"]["message"]


def test_a_file_that_vanished_is_refused_with_words(bring: Bring, team: Team, store: Path) -> None:
    upload = bring(team, None)
    Upload.objects.filter(pk=upload.pk).update(state="reading")
    storage.delete(upload.storage_key)
    assert inspect(upload.pk) == "refused"
    upload.refresh_from_db()
    assert "nothing stored" in upload.error["message"]


def test_a_reader_that_takes_too_long_is_killed(bring: Bring, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.inspect_upload.TIMEOUT_S", 0.001)
    upload = bring(team, None)
    assert (upload.state, upload.error["code"]) == ("refused", "too_slow")


def test_a_reader_that_wants_too_much_memory_dies_alone(
    bring: Bring, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.reading.MEMORY_BYTES", 1024 * 1024)
    upload = bring(team, None)
    assert (upload.state, upload.error["code"]) == ("refused", "reader_died")


def test_an_upload_that_is_gone_is_no_error() -> None:
    assert inspect(987654) == "gone"


def test_the_message_names_a_task_that_the_worker_has(redis_url: str) -> None:
    queue.enqueue_inspect(7)
    raw = client().lrange("cpu", 0, -1)
    assert len(raw) == 1
    assert '"jobs.inspect"' in str(raw[0])
    assert "jobs.inspect" in celery.app.tasks
    assert queue.waiting_in("cpu") == set()
