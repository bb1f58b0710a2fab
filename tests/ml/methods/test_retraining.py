"""Training a model's own weights: what is trained, what stays frozen, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ml.backbone import Backbone
from ml.checkpoint import trainables
from ml.errors import ModelError, SpecError
from ml.heads import HeadModel
from ml.methods import full, head, last_k, output_layers
from tests.ml.backbones import tiny_backbone
from tests.ml.tiny import SHAPES

BUILDS: dict[str, Any] = {"full": full, "head": head, "last_k": last_k, "output_layers": output_layers}
OPTIONS: dict[str, dict[str, Any]] = {"last_k": {"k": 1}, "head": {"pooling": "mean"}}
OUTPUT = {
    "llama": {"model.norm.weight", "lm_head.weight"},
    "gpt2": {"transformer.ln_f.weight", "transformer.ln_f.bias", "lm_head.weight"},
    "bert": {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"},
    "t5": {"decoder.final_layer_norm.weight", "lm_head.weight"},
    "bart": {"lm_head.weight"},
}


def logits(backbone: Backbone) -> torch.Tensor:
    ids = torch.arange(5, 17).view(2, 6)
    more = {"decoder_input_ids": ids} if backbone.family == "encoder_decoder" else {}
    found: torch.Tensor = backbone.model(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits
    return found


@pytest.mark.parametrize("method", ["full", "last_k", "output_layers"])
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_building_changes_no_answer_and_every_trained_tensor_gets_a_gradient(shape: str, method: str) -> None:
    """An untied T5 would have lost the scaling of its outputs if that hung on tied embeddings."""
    backbone = tiny_backbone(shape)
    before = logits(backbone).detach()
    model = BUILDS[method].build(backbone, OPTIONS.get(method, {}), 0)
    after = logits(backbone)
    assert torch.allclose(after, before, atol=1e-5)
    after.logsumexp(-1).sum().backward()
    trained = trainables(model)
    assert trained
    assert [name for name, p in trained.items() if p.grad is None] == []


@pytest.mark.parametrize("shape", sorted(OUTPUT))
def test_output_layers_are_the_final_norm_and_what_answers(shape: str) -> None:
    assert set(trainables(output_layers.build(tiny_backbone(shape), {}, 0))) == OUTPUT[shape]


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_the_last_layer_leaves_the_first_and_the_embeddings_frozen(shape: str) -> None:
    model = last_k.build(tiny_backbone(shape), {"k": 1}, 0)
    trained = set(trainables(model))
    assert any(".1." in name for name in trained)
    assert not any(".0.self" in name or "encoder.block" in name or "embed" in name or "wte" in name for name in trained)


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_more_layers_than_there_are_is_refused_with_the_depth(shape: str) -> None:
    with pytest.raises(SpecError, match=f"tiny-{shape} has 2 layers, 3 cannot be trained") as caught:
        last_k.build(tiny_backbone(shape), {"k": 3}, 0)
    assert (caught.value.field, caught.value.hint) == ("k", "Choose at most 2.")


def test_training_untied_output_layers_leaves_the_input_embeddings_bit_identical() -> None:
    backbone = tiny_backbone("llama")
    embeddings = backbone.model.get_input_embeddings().weight
    before = embeddings.clone()
    model = output_layers.build(backbone, {}, 0)
    logits(backbone).sum().backward()
    torch.optim.SGD(trainables(model).values(), lr=1.0).step()
    assert torch.equal(embeddings, before)
    assert not torch.equal(model.lm_head.weight, before)


def test_full_training_keeps_shared_weights_shared() -> None:
    model = full.build(tiny_backbone("llama"), {}, 0)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in trainables(model)


def test_an_encoder_without_a_classifier_has_no_output_layers_to_train() -> None:
    with pytest.raises(ModelError, match="has no output layer"):
        output_layers.build(tiny_backbone("bert", labels=()), {}, 0)


@pytest.mark.parametrize("shape", ["llama", "gpt2", "bert"])
def test_a_head_starts_with_every_label_equally_likely(shape: str) -> None:
    model = head.build(tiny_backbone(shape), {"pooling": "mean"}, 0)
    assert isinstance(model, HeadModel)
    assert model(torch.randn(2, 32)).softmax(-1).tolist() == [[pytest.approx(1 / 3)] * 3] * 2


@pytest.mark.parametrize("method", sorted(BUILDS))
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_the_memory_plan_may_build_on_the_meta_device(shape: str, method: str) -> None:
    backbone = tiny_backbone(shape)
    backbone.model.to("meta")
    model = BUILDS[method].build(backbone, OPTIONS.get(method, {}), 0)
    assert {p.device.type for p in trainables(model).values()} == {"meta"}
