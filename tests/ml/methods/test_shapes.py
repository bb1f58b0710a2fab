"""Every PEFT method on a tiny model of every shape: what trains, what stays, what an export says in plain peft."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
import torch

from tests.ml.methods.building import PEFT_METHODS, Shapes, forward, frozen_copy, on_meta, plain_peft, train, trained
from tests.ml.methods.building import built_on as build_on
from tests.ml.tiny import SHAPES

ADDED = ("lora_", "ia3_", "prompt_encoder.", "classifier.modules_to_save.")
every_shape = pytest.mark.parametrize("shape", sorted(SHAPES))
every_method = pytest.mark.parametrize("method", PEFT_METHODS)


@every_shape
@every_method
def test_only_what_was_added_trains_and_in_float32(method: str, shape: str, shapes: Shapes) -> None:
    backbone, model = shapes.built(shape, method)
    names = trained(model)
    assert names
    assert all(any(part in name for part in ADDED) for name in names)
    assert {parameter.dtype for parameter in names.values()} == {torch.float32}
    assert any("classifier" in name for name in names) == (backbone.family == "encoder")
    assert model.active_peft_config.base_model_name_or_path == shape


@every_shape
@every_method
def test_every_trained_parameter_gets_a_gradient(method: str, shape: str, shapes: Shapes) -> None:
    backbone, model = shapes.built(shape, method)
    train(model, backbone)  # the first step moves LoRA's B away from zero, behind which A gets none
    assert [name for name, p in trained(model).items() if p.grad is None or not bool(p.grad.any())] == []


@every_shape
@every_method
def test_the_base_is_bit_identical_after_training(method: str, shape: str, shapes: Shapes) -> None:
    backbone = shapes.backbone(shape, method)
    before = frozen_copy(chain(backbone.model.parameters(), backbone.model.buffers()))
    train(build_on(backbone, method), backbone)
    assert before
    assert all(torch.equal(tensor, copy) for tensor, copy in before)


@every_shape
@every_method
def test_an_export_answers_the_same_in_plain_peft(method: str, shape: str, shapes: Shapes, tmp_path: Path) -> None:
    backbone, model = shapes.built(shape, method)
    fresh = shapes.backbone(shape, method)
    untrained = forward(fresh.model, fresh)
    train(model, backbone)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    expected, loaded = forward(model, backbone), forward(plain_peft(fresh, tmp_path), fresh)
    n_own = untrained.shape[1] if untrained.dim() == 3 else 0  # virtual tokens of a decoder stand before these
    assert not torch.allclose(expected[:, -n_own:], untrained, atol=1e-3)
    torch.testing.assert_close(loaded, expected, rtol=1e-5, atol=1e-5)


@every_shape
@every_method
def test_a_padded_row_answers_as_it_does_alone(method: str, shape: str, shapes: Shapes) -> None:
    backbone, model = shapes.built(shape, method)
    train(model, backbone)
    ids = torch.tensor([[60, 61, 62], [70, 0, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    more = {"decoder_input_ids": torch.tensor([[2, 90], [2, 92]])} if backbone.family == "encoder_decoder" else {}
    alone = model(input_ids=ids[1:, :1], attention_mask=mask[1:, :1], **{k: v[1:] for k, v in more.items()}).logits
    padded = model(input_ids=ids, attention_mask=mask, **more).logits[1:]
    kept = slice(None, alone.shape[1])
    torch.testing.assert_close(padded[:, kept], alone, rtol=1e-4, atol=1e-4)


@every_shape
@pytest.mark.parametrize("method", [name for name in PEFT_METHODS if name != "qlora"])
def test_a_16_bit_base_trains_in_float32(method: str, shape: str, shapes: Shapes) -> None:
    backbone = shapes.backbone(shape, dtype=torch.bfloat16)
    model = build_on(backbone, method)
    train(model, backbone, n_steps=1)
    assert {parameter.grad.dtype for parameter in trained(model).values()} == {torch.float32}  # type: ignore[union-attr]
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


@every_shape
@every_method
def test_a_model_without_storage_gets_the_same_parameters(method: str, shape: str, shapes: Shapes) -> None:
    planned = build_on(on_meta(shapes.backbone(shape)), method)
    _, model = shapes.built(shape, method)
    assert {name: p.shape for name, p in trained(planned).items()} == {n: p.shape for n, p in trained(model).items()}
    assert {p.device.type for p in planned.parameters()} == {"meta"}
