"""Finding, naming and loading base models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from ml.backbone import ABOUT, family_of, fingerprint_of, load_backbone, model_folder
from ml.errors import ModelError, OutOfMemoryError
from tests.ml.conftest import save_tiny_llama


@pytest.fixture
def copied(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama_dir, tmp_path / "models" / "copied"))


def test_a_loaded_model_is_frozen_and_evaluating(tiny_llama_dir: Path) -> None:
    backbone = load_backbone(tiny_llama_dir)
    assert not backbone.model.training
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert (backbone.name, backbone.family, backbone.model.dtype) == ("tiny-llama", "decoder", torch.float32)
    assert backbone.tokenizer.pad_token_id is not None


@pytest.mark.parametrize("name", ["../models", "/etc", "a/b", "..", ".", "", ".hidden", "tiny-llama/../tiny-llama"])
def test_a_path_is_not_a_model_name(tiny_models_dir: Path, name: str) -> None:
    with pytest.raises(ModelError, match="is not the name of a model in the models folder"):
        model_folder(tiny_models_dir, name)


def test_a_link_that_leads_outside_is_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(tiny_llama_dir)
    with pytest.raises(ModelError, match="is not the name of a model in the models folder"):
        model_folder(tmp_path, "linked")


def test_a_missing_model_says_how_to_get_the_starters(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model 'other'") as caught:
        model_folder(tmp_path, "other")
    assert "python -m ml starter" in caught.value.hint
    assert caught.value.code == "model_missing"


def test_the_fingerprint_follows_the_weights_and_not_the_folder(tiny_llama_dir: Path, copied: Path) -> None:
    assert fingerprint_of(copied) == fingerprint_of(tiny_llama_dir)
    weights = copied / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert fingerprint_of(copied) != fingerprint_of(tiny_llama_dir)


def test_the_fingerprint_follows_the_architecture(tiny_llama_dir: Path, copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "transformers_version": "9.9"}))
    assert fingerprint_of(copied) == fingerprint_of(tiny_llama_dir)
    (copied / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    assert fingerprint_of(copied) != fingerprint_of(tiny_llama_dir)


def test_the_fingerprint_is_kept_beside_the_weights(copied: Path) -> None:
    (copied / ABOUT).write_text(json.dumps({"license": "mit"}))
    fingerprint = fingerprint_of(copied)
    about = json.loads((copied / ABOUT).read_text())
    assert (about["fingerprint"], about["license"]) == (fingerprint, "mit")


def test_weights_that_are_not_safetensors_are_refused(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has no \*\.safetensors weights"):
        load_backbone(copied)


def test_damaged_weights_are_a_model_error(copied: Path) -> None:
    (copied / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="copied cannot be loaded"):
        load_backbone(copied)


@pytest.mark.parametrize("change", [{"model_type": "martian"}, {"auto_map": {"AutoModel": "code.Model"}}])
def test_models_of_unknown_kind_or_with_code_are_refused(copied: Path, change: dict[str, object]) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match="which cannot be used"):
        load_backbone(copied)


def test_an_encoder_is_refused_for_training(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    assert family_of(copied) == "encoder"
    with pytest.raises(ModelError, match="copied is an encoder model"):
        load_backbone(copied)


def test_other_weights_have_another_fingerprint(tiny_llama_dir: Path, tmp_path: Path) -> None:
    assert fingerprint_of(save_tiny_llama(tmp_path / "other", seed=1)) != fingerprint_of(tiny_llama_dir)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_to_load_is_no_damage(
    tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("ml.backbone.AutoModelForCausalLM.from_pretrained", fail)
    with pytest.raises(OutOfMemoryError, match="not enough memory to load tiny-llama"):
        load_backbone(tiny_llama_dir)
