"""Changed weights survive the way to a folder and back, bit by bit; other folders are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ml.checkpoint import trainables
from ml.errors import ArtifactError
from ml.methods import last_k, output_layers
from ml.weights import CONFIG, WEIGHTS, is_untied, load_delta, save_delta, untie
from tests.ml.backbones import tiny_backbone
from tests.ml.tiny import SHAPES


def moved(model: torch.nn.Module) -> torch.nn.Module:
    """The trained weights after a step in some direction."""
    with torch.no_grad():
        for parameter in trainables(model).values():
            parameter.add_(torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter))
    return model


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_saved_weights_come_back_bit_by_bit(shape: str, tmp_path: Path) -> None:
    model = moved(output_layers.build(tiny_backbone(shape), {}, 0))
    save_delta(model, tmp_path, "tiny")
    loaded = load_delta(tiny_backbone(shape), tmp_path)
    there = dict(loaded.named_parameters())
    assert all(torch.equal(there[name], p) for name, p in model.named_parameters())
    assert not trainables(loaded)


def test_the_folder_holds_exactly_the_trained_tensors(tmp_path: Path) -> None:
    model = last_k.build(tiny_backbone("llama"), {"k": 1}, 0)
    save_delta(model, tmp_path, "tiny-llama")
    about = json.loads((tmp_path / CONFIG).read_text())
    assert set(load_file(tmp_path / WEIGHTS)) == set(trainables(model)) == set(about["tensors"])
    assert (about["format"], about["family"], about["untied"]) == ("coldframe-weights", "decoder", False)


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_delta(last_k.build(tiny_backbone("llama"), {"k": 1}, 0), tmp_path / name, "tiny-llama")
    for name in (CONFIG, WEIGHTS):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_untying_copies_the_matrix_and_leaves_other_models_alone() -> None:
    """The configuration is shared by the parts of a model: setting it in place would change the input side's too."""
    model = tiny_backbone("llama").model
    inner = model.model.config
    untie(model)
    assert is_untied(model)
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert model.config.tie_word_embeddings is False
    assert inner.tie_word_embeddings is True
    model.tie_weights()
    assert is_untied(model)


def test_a_tensor_without_a_place_is_refused_and_nothing_is_put_on(tmp_path: Path) -> None:
    save_delta(moved(last_k.build(tiny_backbone("llama"), {"k": 1}, 0)), tmp_path, "tiny-llama")
    other = tiny_backbone("llama", num_hidden_layers=1)
    before = {name: p.clone() for name, p in other.model.named_parameters()}
    with pytest.raises(ArtifactError, match=r"model\.layers\.1\..* the model's is none"):
        load_delta(other, tmp_path)
    assert all(torch.equal(before[name], p) for name, p in other.model.named_parameters())


def test_other_labels_are_refused(tmp_path: Path) -> None:
    save_delta(output_layers.build(tiny_backbone("bert"), {}, 0), tmp_path, "tiny-bert")
    with pytest.raises(ArtifactError, match="answer with the labels"):
        load_delta(tiny_backbone("bert", labels=("x", "y", "z")), tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "another format", "another list", "absent"])
def test_a_damaged_folder_is_refused(damage: str, tmp_path: Path) -> None:
    save_delta(last_k.build(tiny_backbone("llama"), {"k": 1}, 0), tmp_path, "tiny-llama")
    about = json.loads((tmp_path / CONFIG).read_text())
    if damage == "truncated":
        (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:100])
    elif damage == "absent":
        (tmp_path / CONFIG).unlink()
    else:
        change = {"version": 2} if damage == "another format" else {"tensors": {}}
        (tmp_path / CONFIG).write_text(json.dumps(about | change))
    with pytest.raises(ArtifactError):
        load_delta(tiny_backbone("llama"), tmp_path)
