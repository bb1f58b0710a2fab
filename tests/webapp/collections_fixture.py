"""What the tests of collections share: storage of their own, files, publishing without a worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from tests.jobs.ingest_fixture import axis, write_output
from webapp.models import Collection, DocumentVersion, Run, Team
from webapp.services.collections import (
    collection_create,
    documents_add,
    ingest_publish,
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
