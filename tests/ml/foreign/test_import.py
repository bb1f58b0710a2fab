"""Adapters of plain peft become artifacts that answer as they did; what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ml.artifact import load_adapter, verify
from ml.backbone import load_backbone
from ml.errors import ArtifactError, ModelError, SpecError
from ml.foreign import import_adapter
from tests.ml.conftest import save_tiny_llama
from tests.ml.foreign.conftest import CONFIGS, peft_model
from tests.ml.methods.building import LABELS, PEFT_METHODS, Shapes
from tests.ml.running import Recorder
from tests.ml.tiny import SHAPES

IDS = torch.tensor([[5, 9, 300, 17, 44]])


def brought(folder: Path, models: Path, into: Path, **changes: Any) -> Any:
    return import_adapter(folder, models_dir=models, into=into, **{"base": "tiny-llama", **changes})


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_of_plain_peft_answers_as_before(
    kind: str, tiny_models_dir: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    theirs = peft_model(tiny_llama_dir, kind)
    theirs.save_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        wanted = theirs(IDS).logits
    imported = brought(tmp_path / "theirs", tiny_models_dir, tmp_path / "ours")
    assert imported.n_trainable > 0 and verify(tmp_path / "ours").family == "decoder"
    ours = load_adapter(load_backbone(tiny_llama_dir), tmp_path / "ours")
    with torch.no_grad():
        assert torch.allclose(ours(IDS).logits, wanted, atol=1e-6)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    return Shapes(tmp_path_factory.mktemp("shapes"))


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("method", PEFT_METHODS)
def test_adapters_of_every_method_and_shape_come_in(method: str, shape: str, shapes: Shapes, tmp_path: Path) -> None:
    backbone, model = shapes.built(shape, method)
    model.save_pretrained(tmp_path / "theirs")
    labels = LABELS if backbone.family == "encoder" else ()
    imported = brought(tmp_path / "theirs", shapes.folder, tmp_path / "ours", base=shape, labels=labels)
    assert (imported.manifest.family, imported.manifest.labels) == (backbone.family, list(labels))
    found, wanted = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs"))
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    load_adapter(shapes.backbone(shape), tmp_path / "ours")


def test_the_manifest_says_that_it_was_imported_and_what_is_known(
    lora_folder: Path, tiny_models_dir: Path, tmp_path: Path
) -> None:
    manifest = brought(lora_folder, tiny_models_dir, tmp_path / "ours").manifest
    assert (manifest.method, manifest.form, manifest.dataset["name"]) == ("lora", "lora_delta", "imported")
    assert manifest.spec["source"] == "imported" and manifest.metrics == {}
    assert manifest.spec["options"] == {
        "rank": 3, "alpha": 6.0, "dropout": 0.0, "rslora": False, "dora": False, "targets": "q_proj, v_proj"
    }  # fmt: skip


def test_a_dora_is_served_on_a_model_of_its_own(tiny_models_dir: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    peft_model(tiny_llama_dir, "dora").save_pretrained(tmp_path / "dora")
    assert brought(tmp_path / "dora", tiny_models_dir, tmp_path / "ours").manifest.form == "own_backbone"


def test_the_servers_base_is_used_whatever_the_folder_names(
    lora_folder: Path, tiny_models_dir: Path, tmp_path: Path
) -> None:
    change_config(lora_folder, base_model_name_or_path="/etc/../evil/model", revision="main")
    imported = brought(lora_folder, tiny_models_dir, tmp_path / "ours")
    written = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == "tiny-llama" and written["revision"] is None
    assert any("/etc/../evil/model" in notice for notice in imported.notices)


def test_an_adapter_of_a_wider_base_is_refused_by_shape(lora_folder: Path, tmp_path: Path) -> None:
    save_tiny_llama(tmp_path / "models" / "tiny-llama", hidden_size=48, num_attention_heads=4)
    with pytest.raises(
        ArtifactError, match=r"q_proj.lora_A.weight has the shape \[3, 32\]; tiny-llama needs \[3, 48\]"
    ):
        brought(lora_folder, tmp_path / "models", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_an_adapter_of_a_deeper_base_is_refused_by_name(lora_folder: Path, tmp_path: Path) -> None:
    save_tiny_llama(tmp_path / "models" / "tiny-llama", num_hidden_layers=1)
    with pytest.raises(ArtifactError, match=r"layers.1.* has no place on tiny-llama"):
        brought(lora_folder, tmp_path / "models", tmp_path / "ours")


def change_weights(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(
    value: float, lora_folder: Path, tiny_models_dir: Path, tmp_path: Path
) -> None:
    change_weights(lora_folder, lambda tensors: next(iter(tensors.values())).view(-1)[:1].fill_(value))
    with pytest.raises(ArtifactError, match="NaN or infinity"):
        brought(lora_folder, tiny_models_dir, tmp_path / "ours")


def test_a_missing_tensor_is_named(lora_folder: Path, tiny_models_dir: Path, tmp_path: Path) -> None:
    change_weights(lora_folder, lambda tensors: tensors.pop(sorted(tensors)[0]))
    with pytest.raises(ArtifactError, match="1 of 8 tensors are missing"):
        brought(lora_folder, tiny_models_dir, tmp_path / "ours")


def test_whole_numbers_are_no_adapter(lora_folder: Path, tiny_models_dir: Path, tmp_path: Path) -> None:
    change_weights(lora_folder, lambda tensors: tensors.update({k: v.to(torch.int8) for k, v in tensors.items()}))
    with pytest.raises(ArtifactError, match="of type I8"):
        brought(lora_folder, tiny_models_dir, tmp_path / "ours")


def test_a_base_that_is_a_path_is_refused(lora_folder: Path, tiny_models_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not the name of a model"):
        import_adapter(lora_folder, models_dir=tiny_models_dir, base="../x", into=tmp_path / "ours")


def test_labels_belong_to_encoders_only(lora_folder: Path, tiny_models_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="Only an encoder's adapter has labels"):
        brought(lora_folder, tiny_models_dir, tmp_path / "ours", labels=("a", "b"))


def test_the_uploaders_card_is_kept_as_text(lora_folder: Path, tiny_models_dir: Path, tmp_path: Path) -> None:
    (lora_folder / "README.md").write_text("---\nlicense: mit\n---\nMade by hand.\n")
    brought(lora_folder, tiny_models_dir, tmp_path / "ours")
    card = (tmp_path / "ours" / "README.md").read_text()
    assert "Made by hand." in card and "license: mit" not in card


def test_equal_folders_give_equal_artifacts(lora_folder: Path, tiny_models_dir: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        brought(lora_folder, tiny_models_dir, tmp_path / name)
    assert (tmp_path / "one" / "manifest.json").read_bytes() == (tmp_path / "two" / "manifest.json").read_bytes()


def test_the_command_line_takes_a_zip(lora_folder: Path, tiny_models_dir: Path, tmp_path: Path) -> None:
    import shutil

    from ml.__main__ import main

    archive = shutil.make_archive(str(tmp_path / "lora"), "zip", tmp_path, "lora")
    events = Recorder()
    words = ["import", archive, "--models", str(tiny_models_dir), "--base", "tiny-llama"]
    assert main([*words, "--into", str(tmp_path / "ours")], emit=events) == 0
    (finished,) = events.named("finished")
    assert finished["n_trainable"] == 3 * (32 + 32) * 2 + 3 * (32 + 16) * 2 and verify(tmp_path / "ours")
