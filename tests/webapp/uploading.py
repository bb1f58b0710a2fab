"""Shared by the tests of datasets: a storage of their own, a doorbell that only notes, a worker that works at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from jobs.inspect_upload import inspect
from webapp.models import Dataset, DatasetVersion, Run, Upload
from webapp.reading import ChildError, read_in_child
from webapp.services import run_leases, uploads
from webapp.services.datasets import version_publish

LABELS = ("outage", "billing", "meter")
CSV = "text,label\n" + "".join(f"My message number {i},{LABELS[i % 3]}\n" for i in range(60))
MAPPING = {"format": "columns", "task": "classification", "prompt": "Queue of: {text}", "completion": "{label}"}
CHOICES = {"name": "support", "split": "stratified", "validation": "10", "test": "10", "seed": "17"}
__all__ = ["CHOICES", "CSV", "MAPPING", "Dataset", "bring", "file_named", "inspect", "rung", "store", "work"]


def file_named(name: str, content: str | bytes = CSV) -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content.encode() if isinstance(content, str) else content)


@pytest.fixture
def store(settings: Any, tmp_path: Path) -> Path:
    """Storage, work folders and a models folder that holds only a tokenizer."""
    from tests.ml.conftest import tiny_tokenizer

    settings.STORAGE_DIR, settings.RUNS_DIR, settings.MODELS_DIR = (tmp_path / n for n in ("storage", "runs", "models"))
    settings.BASE_MODEL, settings.BASE_MODELS = "tiny", ("tiny",)
    settings.RUNS_DIR.mkdir()
    tiny_tokenizer().save_pretrained(settings.MODELS_DIR / "tiny")
    return tmp_path


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Uploads that a worker was asked to look at."""
    asked: list[int] = []
    monkeypatch.setattr(uploads, "enqueue_inspect", asked.append)
    monkeypatch.setattr("webapp.services.runs.enqueue", lambda kind, run_id: None)
    return asked


@pytest.fixture
def bring(store: Path, rung: list[int]) -> Callable[..., Upload]:
    """Brings a file and has it looked at, as a worker would."""

    def _bring(team: Any, user: Any, content: str | bytes = CSV, name: str = "tickets.csv") -> Upload:
        upload, _ = uploads.upload_create(team=team, user=user, file=file_named(name, content).file, filename=name)
        inspect(upload.pk)
        upload.refresh_from_db()
        return upload

    return _bring


def work(run: Run, folder: Path) -> DatasetVersion | None:
    """Does a validate run as its supervisor would; None when it failed."""
    from webapp import storage

    claim = run_leases.run_claim(run_id=run.pk, owner="test")
    assert claim is not None
    folder.mkdir(parents=True, exist_ok=True)
    spec = json.loads(json.dumps(run.spec)) | {"source_path": str(storage.path_of(run.spec["source"]))}
    for part in spec.get("parts", ()):
        part["source_path"] = str(storage.path_of(part["source"]))
    try:
        out = read_in_child(spec=spec, workdir=folder, timeout_s=60)
    except ChildError as error:
        Run.objects.filter(pk=run.pk).update(state=Run.State.FAILED, error=error.as_dict())
        run.refresh_from_db()
        from webapp.services.datasets import version_run_over

        version_run_over(run=run)
        return None
    Run.objects.filter(pk=run.pk).update(state=Run.State.SUCCEEDED)
    run.refresh_from_db()
    return version_publish(run=run, out=out)
