"""A batch from its file to its answers: submitted as the API does, done by a supervisor, on a real engine."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from jobs import supervise as supervising
from jobs.commands import workdir_of
from jobs.supervise import supervise
from tests.jobs.test_engine_main import Engines, models  # noqa: F401
from tests.jobs.test_evaluate import configured, engines  # noqa: F401
from tests.jobs.test_supervise import at_step
from webapp import storage
from webapp.models import ApiFile, Batch, Run, Team
from webapp.selectors.batches import counts_of, status_of
from webapp.services.batches import batch_submit, file_create
from webapp.services.runs import run_cancel, run_retry

pytestmark = pytest.mark.django_db
CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def on_this_engine(engines: Engines, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    settings.VAR_DIR, settings.RUNS_DIR, settings.STORAGE_DIR = tmp_path, tmp_path / "runs", tmp_path / "storage"
    settings.REDIS_URL, settings.BASE_MODEL, settings.BASE_MODELS = engines.url, "tiny-llama", ("tiny-llama",)
    monkeypatch.setattr(supervising, "FLUSH_S", 0.05)


def submitted(n: int, *, bad: str = "", max_tokens: int = 8) -> Batch:
    team = Team.objects.create(slug="t", name="T")
    rows = [
        {"custom_id": f"c{place}", "method": "POST", "url": CHAT, "body": {
            "model": "base", "messages": [{"role": "user", "content": f"Row {place}?"}], "max_tokens": max_tokens}}
        for place in range(n)
    ]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows) + bad
    file = file_create(
        team=team, user=None, file=io.BytesIO(text.encode()), filename="rows.jsonl", size_bytes=len(text),
        purpose="batch",
    )  # fmt: skip
    return batch_submit(team=team, user=None, file=file, endpoint=CHAT, window="24h")


def again(batch: Batch) -> Batch:
    return Batch.objects.select_related("run", "output_file", "error_file").get(pk=batch.pk)


def lines_in(file: ApiFile | None) -> list[dict[str, Any]]:
    assert file is not None
    return [json.loads(line) for line in storage.path_of(file.storage_key).read_text().splitlines()]


def test_a_file_of_requests_becomes_a_file_of_answers() -> None:
    unknown = {"custom_id": "x", "method": "POST", "url": CHAT, "body": {"model": "nobody", "messages": []}}
    batch = submitted(6, bad=json.dumps(unknown))
    assert supervise(batch.run.pk) == "succeeded"
    batch = again(batch)
    assert status_of(batch) == "completed" and counts_of(batch) == {"total": 7, "completed": 6, "failed": 1}
    assert [line["custom_id"] for line in lines_in(batch.output_file)] == [f"c{place}" for place in range(6)]
    assert lines_in(batch.error_file)[0]["custom_id"] == "x"
    assert batch.run.result["metrics"] == {"n_done": 6, "n_failed": 1}


def test_a_file_that_is_no_request_a_line_fails_before_anything_is_asked() -> None:
    batch = submitted(2, bad="{")
    assert supervise(batch.run.pk) == "failed before it began: invalid_spec"
    assert again(batch).run.error["field"] == "line 3" and not ApiFile.objects.filter(purpose="batch_output").exists()


def test_a_worker_that_is_stopped_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = submitted(60, max_tokens=60)
    with monkeypatch.context() as patch:
        term = at_step(batch.run, lambda: os.kill(os.getpid(), signal.SIGTERM))
        patch.setattr(supervising.Watch, "_decide", term)
        assert supervise(batch.run.pk) == "handed back"
    kept = (workdir_of(batch.run.pk) / "answers.jsonl").read_text().splitlines()
    assert 1 <= len(kept) < 60 and not again(batch).is_published
    assert supervise(batch.run.pk) == "succeeded"
    lines = lines_in(again(batch).output_file)
    assert [line["custom_id"] for line in lines] == [f"c{place}" for place in range(60)]
    assert {json.loads(line)["id"] for line in kept} <= {line["id"] for line in lines}


def test_what_a_cancelled_batch_had_answered_stays_and_it_can_be_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = submitted(60, max_tokens=60)
    with monkeypatch.context() as patch:
        patch.setattr(supervising.Watch, "_decide", at_step(batch.run, lambda: run_cancel(run=batch.run) and None))
        assert supervise(batch.run.pk) == "cancelled"
    stopped = again(batch)
    assert status_of(stopped) == "cancelled" and 1 <= stopped.n_done < 60
    assert len(lines_in(stopped.output_file)) == stopped.n_done
    run_retry(run=Run.objects.get(pk=batch.run.pk))
    assert supervise(batch.run.pk) == "succeeded"
    assert len(lines_in(again(batch).output_file)) == 60
    assert ApiFile.objects.filter(purpose="batch_output").count() == 1
