"""A head is logistic regression over pooled states; it comes back from its folder bit by bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ml.errors import ArtifactError
from ml.heads import CONFIG, WEIGHTS, HeadModel, load_head, pooled, save_head
from tests.ml.backbones import LABELS, tiny_backbone


def drawn(shape: str = "llama") -> HeadModel:
    model = HeadModel(tiny_backbone(shape).model, labels=LABELS, pooling="mean")
    generator = torch.Generator().manual_seed(3)
    for tensor in (model.weight.data, model.bias.data, model.mean):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model


def test_pooling_sees_real_tokens_only() -> None:
    states = torch.arange(12.0).view(2, 3, 2)  # [B, T, D]
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert pooled(states, mask, "mean").tolist() == [[1, 2], [8, 9]]
    assert pooled(states, mask, "last").tolist() == [[2, 3], [10, 11]]
    assert pooled(states, mask, "first").tolist() == [[0, 1], [6, 7]]


@pytest.mark.parametrize("shape", ["llama", "gpt2", "bert"])
def test_features_of_a_padded_batch_are_those_of_each_row_alone(shape: str) -> None:
    model = drawn(shape)
    ids = torch.randint(5, 300, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(9) < torch.tensor([[4], [9]])
    alone = model.features(ids[:1, :4], mask[:1, :4])
    assert torch.allclose(model.features(ids, mask)[:1], alone, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma"])
def test_features_behind_a_shared_prefix_are_those_of_whole_rows(shape: str, pooling: str) -> None:
    model = HeadModel(tiny_backbone(shape).model, labels=LABELS, pooling=pooling)
    ids = torch.randint(5, 300, (3, 9), generator=torch.Generator().manual_seed(1))
    ids[:, :4] = ids[0, :4]
    mask = torch.arange(9) < torch.tensor([[5], [9], [7]])
    shared = model.features(ids[:, 4:], mask[:, 4:], ids[0, :4].tolist())
    assert torch.allclose(shared, model.features(ids, mask), atol=1e-5)


def test_only_the_head_is_trained_and_the_frozen_model_stays_in_evaluation_mode() -> None:
    model = drawn().train()
    assert [name for name, _ in model.named_parameters()] == ["weight", "bias"]
    assert not model.backbone_model.training


def test_a_feature_that_never_varies_does_not_divide_by_zero() -> None:
    model = drawn()
    model.standardize(torch.ones(32), torch.zeros(32))
    assert torch.isfinite(model(torch.ones(1, 32))).all()


def test_a_saved_head_comes_back_bit_by_bit(tmp_path: Path) -> None:
    model = drawn()
    save_head(model, tmp_path, "tiny-llama")
    loaded = load_head(tiny_backbone("llama"), tmp_path)
    features = torch.randn(4, 32)
    assert torch.equal(loaded(features), model(features))
    assert (loaded.labels, loaded.pooling) == (LABELS, "mean")
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_head_of_another_width_is_refused(tmp_path: Path) -> None:
    save_head(drawn(), tmp_path, "tiny-llama")
    with pytest.raises(ArtifactError, match=r"weight has shape \[3, 32\].* needs \[3, 16\]"):
        load_head(tiny_backbone("llama", hidden_size=16), tmp_path)


@pytest.mark.parametrize("damage", ["pooling", "version", "tensors", "absent"])
def test_a_damaged_folder_is_refused(damage: str, tmp_path: Path) -> None:
    save_head(drawn(), tmp_path, "tiny-llama")
    if damage == "absent":
        (tmp_path / WEIGHTS).unlink()
    elif damage == "tensors":
        (tmp_path / WEIGHTS).write_bytes(b"\x00" * 40)
    else:
        about = json.loads((tmp_path / CONFIG).read_text()) | {damage: "max" if damage == "pooling" else 7}
        (tmp_path / CONFIG).write_text(json.dumps(about))
    with pytest.raises(ArtifactError):
        load_head(tiny_backbone("llama"), tmp_path)
