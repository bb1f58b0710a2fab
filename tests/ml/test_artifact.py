"""Adapters on disk: whole, checked by file, for the right base only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ml.artifact import artifact_id, load_adapter, verify
from ml.backbone import load_backbone, sha256_of
from ml.errors import ArtifactError, StorageError
from tests.ml.conftest import save_tiny_llama
from tests.ml.running import tiny_spec, train_whole

FILES = ("adapter_config.json", "adapter_model.safetensors", "README.md")


@pytest.fixture(scope="module")
def trained(tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    train_whole(tiny_spec(steps=1), model=tiny_llama_dir, dataset=tiny_dataset_dir, workdir=workdir)
    return workdir / "out"


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copied"))


def test_every_file_is_listed_with_its_hash(trained: Path) -> None:
    manifest = verify(trained)
    assert sorted(manifest.files) == sorted(FILES)
    assert all(manifest.files[name]["sha256"] == sha256_of(trained / name) for name in FILES)
    assert artifact_id(trained) == sha256_of(trained / "manifest.json")


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_byte_is_refused_by_file_name(copied: Path, name: str) -> None:
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match=f"The adapter is damaged: {name} has other content"):
        verify(copied)


def test_a_missing_file_is_refused_by_name(copied: Path) -> None:
    (copied / "adapter_model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"adapter_model\.safetensors is missing"):
        verify(copied)


def test_a_cut_file_is_refused_by_name(copied: Path) -> None:
    with (copied / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(ArtifactError, match=r"adapter_model\.safetensors has 100 bytes instead of"):
        verify(copied)


def test_a_pickle_smuggled_into_the_folder_is_refused(copied: Path) -> None:
    (copied / "adapter_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(ArtifactError, match=r"adapter_model\.bin is not in its manifest"):
        verify(copied)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', "nonsense"])
def test_a_damaged_manifest_is_refused(copied: Path, text: str) -> None:
    (copied / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        verify(copied)


def test_a_newer_schema_is_refused_with_advice(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps({**manifest, "schema": 2}))
    with pytest.raises(ArtifactError, match="has schema 2"):
        verify(copied)


def test_an_adapter_for_another_base_is_refused(trained: Path, tmp_path: Path) -> None:
    other = load_backbone(save_tiny_llama(tmp_path / "other", seed=1))
    with pytest.raises(ArtifactError, match=r"was trained on tiny-llama .*, not on other"):
        load_adapter(other, trained)


def test_the_model_card_is_what_hubs_expect(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    assert card.startswith('---\nlibrary_name: peft\nbase_model: "tiny-llama"\ntags:\n- lora\n- coldframe\n---\n')
    assert "| accuracy |" in card


def test_nothing_is_left_behind_when_saving_fails(
    tiny_llama_dir: Path, tiny_dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ml.artifact._card", full)
    with pytest.raises(StorageError, match="out could not be written: No space left"):
        train_whole(tiny_spec(steps=1), model=tiny_llama_dir, dataset=tiny_dataset_dir, workdir=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best", "checkpoints"]
