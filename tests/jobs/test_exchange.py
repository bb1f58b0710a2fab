"""Imports and exports by the real child: from a zip in the storage to a version, and from a version to one model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.child import child_env
from jobs.exchange import extra_env
from jobs.supervise import supervise
from ml.errors import UnavailableError
from tests.ml.conftest import save_tiny_llama
from tests.ml.foreign.conftest import peft_model
from webapp import storage
from webapp.models import AdapterVersion, BaseModel, Run, Team
from webapp.services.exchange import export_submit, hub_submit, import_submit

TOKEN = "hf_" + "secret" * 4


@pytest.fixture
def team(transactional_db: None, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
    """A team, a tiny base model, and workers that find both; no broker is there."""
    settings.VAR_DIR = tmp_path
    for name in ("STORAGE", "RUNS", "MODELS"):
        folder = tmp_path / name.lower()
        folder.mkdir()
        setattr(settings, f"{name}_DIR", folder)
    settings.REDIS_URL, settings.RUN_NICE = "redis://127.0.0.1:1/0", 0
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    save_tiny_llama(settings.MODELS_DIR / "tiny-llama")
    BaseModel.objects.create(name="tiny-llama", family="decoder")
    return Team.objects.create(slug="t", name="T")


def brought(team: Team, folder: Path) -> Run:
    """An import of what lies in `folder`, done."""
    archive = Path(shutil.make_archive(str(folder), "zip", folder.parent, folder.name))
    with archive.open("rb") as file:
        run = import_submit(
            team=team, user=None, file=file, filename=archive.name, size_bytes=archive.stat().st_size, name="triage",
            base="tiny-llama",
        )  # fmt: skip
    supervise(run.pk)
    run.refresh_from_db()
    return run


@pytest.fixture
def theirs(team: Team, settings: Any, tmp_path: Path) -> Path:
    peft_model(settings.MODELS_DIR / "tiny-llama", "lora").save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def test_a_zip_of_plain_peft_becomes_a_version_and_that_one_model(team: Team, theirs: Path) -> None:
    run = brought(team, theirs)
    version = AdapterVersion.objects.get()
    assert run.state == Run.State.SUCCEEDED and version.run == run and str(version) == "triage@1"
    assert version.base_name == "tiny-llama" and version.n_trainable == 3 * (32 + 32) * 2 + 3 * (32 + 16) * 2
    assert (storage.path_of(version.storage_key) / "adapter_model.safetensors").is_file()
    assert not storage.exists(run.spec["source"])
    export = export_submit(version=version, user=None)
    supervise(export.pk)
    export.refresh_from_db()
    assert export.state == Run.State.SUCCEEDED
    files = {path.name for path in storage.path_of(export.spec["key"]).iterdir()}
    assert {"model.safetensors", "config.json", "README.md"} <= files == set(export.result["export"]["files"])


def test_a_refused_adapter_says_which_file_on_the_run(team: Team, theirs: Path) -> None:
    (theirs / "adapter_model.bin").write_bytes(b"\x80\x02.")
    run = brought(team, theirs)
    assert run.state == Run.State.FAILED and run.attempt == 1
    assert "'adapter_model.bin' is a pickle" in run.error["message"] and run.error["hint"]
    assert not AdapterVersion.objects.exists() and storage.exists(run.spec["source"])


def test_only_the_child_of_an_upload_gets_the_token(
    team: Team, theirs: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.HF_TOKEN = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run = brought(team, theirs)
    version = AdapterVersion.objects.get()
    export, upload = export_submit(version=version, user=None), hub_submit(version=version, user=None, repo="x")
    for other in (run, export):
        assert TOKEN not in child_env(extra_env(other)).values()
    assert child_env(extra_env(upload))["HF_TOKEN"] == TOKEN
    settings.HF_TOKEN = ""
    with pytest.raises(UnavailableError):
        extra_env(upload)
