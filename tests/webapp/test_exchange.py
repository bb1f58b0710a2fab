"""Bringing adapters in and taking versions out: who may, what is asked of the workers, what is kept and how long."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ml.errors import NotFoundError
from tests.webapp.library import artifact, published
from webapp import storage
from webapp.models import AdapterVersion, AuditEvent, BaseModel, Run, Team
from webapp.selectors.exchange import EXPORT_DAYS, export_files
from webapp.services.exchange import exchange_expire, export_publish, import_publish

SignIn = Callable[[Any], Client]


@pytest.fixture
def version(settings: Any, team: Team, member: Any, tmp_path: Path) -> AdapterVersion:
    settings.STORAGE_DIR = tmp_path / "storage"
    settings.STORAGE_DIR.mkdir()
    BaseModel.objects.create(name="tiny", family="decoder")
    return published(team, tmp_path / "out", user=member)


def zipped(name: str = "adapter.zip", data: bytes = b"") -> SimpleUploadedFile:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("adapter_config.json", "{}")
    return SimpleUploadedFile(name, data or raw.getvalue())


def send(client: Client, **changes: Any) -> Any:
    return client.post(reverse("adapters:import"), {"file": zipped(), "name": "triage", "base": "tiny", **changes})


def test_an_upload_is_kept_under_a_uuid_and_asked_to_be_checked(
    client_of: SignIn, member: Any, version: AdapterVersion
) -> None:
    response = send(client_of(member), file=zipped("../../evil\u202e.zip"), labels="calm\n\n cross ")
    run = Run.objects.get(kind=Run.Kind.IMPORT)
    assert response.url == reverse("runs:detail", args=[run.pk])
    assert storage.path_of(run.spec["source"]).read_bytes().startswith(b"PK")
    assert run.spec["source"].startswith("uploads/") and run.spec["filename"] == "evil.zip"
    assert (run.spec["base"], run.spec["adapter"], run.spec["labels"]) == ("tiny", "triage", ["calm", "cross"])
    assert AuditEvent.objects.filter(action="adapter.import").exists()


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"file": zipped("adapter.bin", b"\x80\x02pickle")}, 415, "is not a zip archive"),
        ({"file": zipped("adapter.zip", b"GGUF" + bytes(40))}, 415, "is not a zip archive"),
        ({"name": "Not a Name"}, 400, "A name is 1 to 80"),
        ({"base": "nowhere"}, 422, "Select a valid choice"),
        ({"file": ""}, 422, "This field is required"),
    ],
)  # fmt: skip
def test_what_cannot_be_an_adapter_is_said_beside_the_field(
    client_of: SignIn, member: Any, version: AdapterVersion, changes: dict[str, Any], status: int, words: str
) -> None:
    response = send(client_of(member), **changes)
    assert response.status_code == status and words in response.content.decode()
    assert not Run.objects.filter(kind=Run.Kind.IMPORT).exists()


def test_an_upload_over_the_limit_is_refused(
    client_of: SignIn, member: Any, version: AdapterVersion, settings: Any
) -> None:
    settings.MAX_UPLOAD_BYTES = 10
    assert send(client_of(member)).status_code == 413


def test_an_imported_version_says_who_brought_it_and_the_upload_is_gone(
    client_of: SignIn, member: Any, version: AdapterVersion, tmp_path: Path, django_capture_on_commit_callbacks: Any
) -> None:
    send(client_of(member))
    run = Run.objects.get(kind=Run.Kind.IMPORT)
    manifest = artifact(tmp_path / "imported", evaluations=[])
    manifest["spec"] = {"source": "imported"}
    with django_capture_on_commit_callbacks(execute=True):
        made = import_publish(run=run, out=tmp_path / "imported", manifest=manifest, fence=run.fence)
    assert str(made) == "triage@2" and not storage.exists(run.spec["source"])
    page = client_of(member).get(reverse("adapters:version", args=[made.adapter_id, 2])).content.decode()
    assert "imported by max" in page


def test_only_members_are_offered_to_upload_and_export(
    client_of: SignIn, viewer: Any, member: Any, version: AdapterVersion
) -> None:
    for who, is_offered in ((viewer, False), (member, True)):
        library = client_of(who).get(reverse("adapters:index")).content.decode()
        page = client_of(who).get(reverse("adapters:detail", args=[version.adapter_id])).content.decode()
        assert (reverse("adapters:import") in library) is is_offered
        assert ("Export as one merged model" in page) is is_offered


def test_an_export_is_a_run_whose_zip_viewers_may_fetch(
    client_of: SignIn, viewer: Any, member: Any, version: AdapterVersion, tmp_path: Path
) -> None:
    client_of(member).post(reverse("adapters:export", args=[version.adapter_id, 1]))
    run = Run.objects.get(kind=Run.Kind.EXPORT)
    assert (run.spec["artifact"], run.spec["to"]) == (version.artifact, "file")
    finish(run, tmp_path / "merged")
    for url in (reverse("adapters:detail", args=[version.adapter_id]), reverse("runs:detail", args=[run.pk])):
        assert reverse("adapters:exported", args=[run.pk]) in client_of(viewer).get(url).content.decode()
    response = client_of(viewer).get(reverse("adapters:exported", args=[run.pk]))
    assert response.headers["Content-Disposition"] == 'attachment; filename="triage-v1-merged.zip"'
    with zipfile.ZipFile(io.BytesIO(b"".join(response))) as archive:
        assert archive.read("triage-v1-merged/config.json") == b"{}"


def finish(run: Run, folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    storage.put_folder(folder, run.spec["key"])
    Run.objects.filter(pk=run.pk).update(state=Run.State.SUCCEEDED, finished_at=timezone.now())
    export_publish(run=run, out=folder)
    run.refresh_from_db()


def test_an_export_is_removed_after_its_days_and_says_so(
    client_of: SignIn, member: Any, version: AdapterVersion, tmp_path: Path
) -> None:
    client_of(member).post(reverse("adapters:export", args=[version.adapter_id, 1]))
    run = Run.objects.get(kind=Run.Kind.EXPORT)
    finish(run, tmp_path / "merged")
    assert exchange_expire() == 0 and storage.exists(run.spec["key"])
    Run.objects.filter(pk=run.pk).update(finished_at=timezone.now() - timedelta(days=EXPORT_DAYS, hours=1))
    run.refresh_from_db()
    assert exchange_expire() == 1 and not storage.exists(run.spec["key"])
    with pytest.raises(NotFoundError, match="is gone"):
        export_files(run=run)
    assert client_of(member).get(reverse("adapters:exported", args=[run.pk])).status_code == 410


def test_the_upload_of_a_failed_import_is_kept_for_a_retry_and_then_removed(
    client_of: SignIn, member: Any, version: AdapterVersion
) -> None:
    send(client_of(member))
    row = Run.objects.filter(kind=Run.Kind.IMPORT)
    row.update(state=Run.State.FAILED, finished_at=timezone.now())
    assert exchange_expire() == 0
    row.update(finished_at=timezone.now() - timedelta(days=1, hours=1))
    assert exchange_expire() == 1


def test_what_cannot_be_merged_says_why_instead_of_offering_it(
    client_of: SignIn, member: Any, version: AdapterVersion
) -> None:
    AdapterVersion.objects.update(method="prompt_tuning")
    page = client_of(member).get(reverse("adapters:detail", args=[version.adapter_id])).content.decode()
    assert "there is nothing to merge" in page and "Export as one merged model" not in page
    response = client_of(member).post(reverse("adapters:export", args=[version.adapter_id, 1]))
    assert response.status_code == 409 and not Run.objects.filter(kind=Run.Kind.EXPORT).exists()


def test_the_hub_is_offered_only_where_the_server_has_a_token(
    client_of: SignIn, member: Any, version: AdapterVersion, settings: Any
) -> None:
    url = reverse("adapters:detail", args=[version.adapter_id])
    settings.HF_TOKEN = ""
    assert "Upload to the Hub" not in client_of(member).get(url).content.decode()
    client_of(member).post(reverse("adapters:hub", args=[version.adapter_id, 1]), {"repo": "triage"})
    assert not Run.objects.filter(kind=Run.Kind.EXPORT).exists()
    settings.HF_TOKEN = "hf_secret_secret"
    page = client_of(member).get(url).content.decode()
    assert "Upload to the Hub" in page and "hf_secret" not in page


def test_an_upload_to_the_hub_is_a_run_without_the_token_in_it(
    client_of: SignIn, member: Any, version: AdapterVersion, settings: Any
) -> None:
    settings.HF_TOKEN = "hf_secret_secret"
    url = reverse("adapters:hub", args=[version.adapter_id, 1])
    client_of(member).post(url, {"repo": "team/triage", "merged": "on"})
    run = Run.objects.get(kind=Run.Kind.EXPORT)
    assert (run.spec["repo"], run.spec["merged"], run.spec["is_public"]) == ("team/triage", True, False)
    assert "hf_secret" not in str(run.spec) + run.title


@pytest.mark.parametrize("repo", ["", "a/b/c", "../x", "--flag", "a b"])
def test_an_impossible_repository_is_refused(
    client_of: SignIn, member: Any, version: AdapterVersion, settings: Any, repo: str
) -> None:
    settings.HF_TOKEN = "hf_secret_secret"
    client_of(member).post(reverse("adapters:hub", args=[version.adapter_id, 1]), {"repo": repo})
    assert not Run.objects.filter(kind=Run.Kind.EXPORT).exists()
