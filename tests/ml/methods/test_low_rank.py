"""LoRA, QLoRA and IA3: which layers they change, how much, what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ml.backbone import Backbone, load_backbone
from ml.errors import SpecError
from tests.ml.methods.building import (
    ENCODERS,
    LABELS,
    Shapes,
    built_on,
    forward,
    plain_peft,
    save_encoder,
    train,
    trained,
)
from tests.ml.tiny import SHAPES, save_tiny, tiny_tokenizer

every_shape = pytest.mark.parametrize("shape", sorted(SHAPES))


def changed(model: Any, mark: str = ".lora_A") -> list[str]:
    """Full names of the layers with an adapter."""
    names = [name.split(mark)[0].removeprefix("base_model.model.") for name in trained(model) if mark in name]
    return list(dict.fromkeys(names))


def last_parts(names: list[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


@pytest.mark.parametrize(
    ("shape", "n_all", "n_attention"),
    [("llama", 14, 8), ("qwen2", 14, 8), ("mistral", 14, 8), ("gemma", 14, 8), ("gpt2", 8, 4), ("bert", 13, 8),
     ("t5", 32, 24), ("bart", 32, 24)],
)  # fmt: skip
def test_lora_changes_all_linear_layers_or_those_of_attention(
    shape: str, n_all: int, n_attention: int, shapes: Shapes
) -> None:
    for targets, n_layers in (("all-linear", n_all), ("attention", n_attention)):
        names = changed(shapes.built(shape, "lora", targets=targets)[1])
        assert len(names) == n_layers
        assert not last_parts(names) & {"lm_head", "classifier"}


@pytest.mark.parametrize(
    ("shape", "targets", "expected"),
    [
        ("llama", "q_proj, v_proj", {"q_proj", "v_proj"}),
        ("llama", "mlp.down_proj,", {"down_proj"}),
        ("gpt2", "c_attn", {"c_attn"}),
        ("bert", "query,value", {"query", "value"}),
        ("t5", "q,v", {"q", "v"}),
        ("bart", "fc1", {"fc1"}),
    ],
)
def test_lora_changes_the_layers_named(shape: str, targets: str, expected: set[str], shapes: Shapes) -> None:
    assert last_parts(changed(shapes.built(shape, "lora", targets=targets)[1])) == expected


def test_a_longer_name_tells_layers_of_the_same_name_apart(shapes: Shapes) -> None:
    names = changed(shapes.built("gpt2", "lora", targets="mlp.c_proj")[1])
    assert names == ["transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj"]


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize(
    ("shape", "targets", "culprit", "hint"),
    [
        ("llama", "q_proj, wq", "wq", "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj."),
        ("gpt2", "q_proj", "q_proj", "c_attn, c_proj, c_fc."),
        ("bert", "classifier", "classifier", "query, key, value, dense."),
        ("llama", "lm_head", "lm_head", "q_proj"),
        ("t5", "proj", "proj", "q, k, v, o, wi, wo."),
    ],
)
def test_a_name_that_is_no_linear_layer_lists_the_models_own(
    shape: str, targets: str, culprit: str, hint: str, method: str, shapes: Shapes
) -> None:
    with pytest.raises(SpecError, match=f"{shape} has no linear layer '{culprit}' to change") as caught:
        shapes.built(shape, method, targets=targets)
    assert caught.value.field == "targets"
    assert hint in caught.value.hint


@pytest.mark.parametrize("targets", ["", " , "])
def test_no_name_at_all_is_refused(targets: str, shapes: Shapes) -> None:
    with pytest.raises(SpecError, match="No layer is named") as caught:
        shapes.built("llama", "lora", targets=targets)
    assert caught.value.field == "targets"


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize(("rslora", "scaling"), [(False, 24 / 9), (True, 24 / math.sqrt(9))])
def test_lora_scales_by_alpha_over_rank_or_its_root(rslora: bool, scaling: float, method: str, shapes: Shapes) -> None:
    _, model = shapes.built("llama", method, rank=9, alpha=24, rslora=rslora)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == pytest.approx(scaling)


@every_shape
def test_dora_trains_the_magnitudes_and_starts_at_the_base(shape: str, shapes: Shapes) -> None:
    backbone = shapes.backbone(shape)
    before = forward(backbone.model, backbone)
    model = built_on(backbone, "lora", dora=True).eval()
    assert any("magnitude" in name for name in trained(model))
    torch.testing.assert_close(forward(model, backbone), before, rtol=1e-4, atol=1e-4)


@every_shape
def test_an_export_of_dora_answers_the_same_in_plain_peft(shape: str, shapes: Shapes, tmp_path: Path) -> None:
    backbone, model = shapes.built(shape, "lora", dora=True)
    train(model, backbone)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    fresh = shapes.backbone(shape)
    torch.testing.assert_close(
        forward(plain_peft(fresh, tmp_path), fresh), forward(model, backbone), rtol=1e-5, atol=1e-5
    )


def test_dropout_acts_while_training_only(shapes: Shapes) -> None:
    backbone, model = shapes.built("llama", "lora", dropout=0.5)
    train(model, backbone)
    assert torch.equal(forward(model, backbone), forward(model, backbone))
    model.train()
    assert not torch.equal(forward(model, backbone), forward(model, backbone))


@pytest.mark.filterwarnings("error::UserWarning:peft")
@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_gpt2s_transposed_layers_are_known_beforehand(method: str, shapes: Shapes) -> None:
    _, model = shapes.built("gpt2", method)
    assert model.active_peft_config.fan_in_fan_out is True


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_every_encoders_classifier_trains_beside_the_adapter(kind: str, tmp_path: Path) -> None:
    backbone = load_backbone(save_encoder(tmp_path / kind, kind), labels=LABELS)
    own = {name for name, _ in backbone.model.named_parameters() if not name.startswith(f"{kind}.")}
    model = built_on(backbone, "lora")
    copies = {name.replace("modules_to_save.default.", "") for name in trained(model) if "modules_to_save" in name}
    assert copies == {f"base_model.model.{name}" for name in own}
    assert changed(model)
    assert all(name.startswith(f"{kind}.") for name in changed(model))


def test_qlora_refuses_a_base_that_is_not_in_4_bits(shapes: Shapes) -> None:
    with pytest.raises(SpecError, match="llama is held in float32") as caught:
        built_on(shapes.backbone("llama"), "qlora")
    assert caught.value.field == "method"


def test_qlora_leaves_types_and_checkpointing_as_they_are(shapes: Shapes) -> None:
    backbone = shapes.backbone("llama", "qlora", dtype=torch.bfloat16)
    before = {name: parameter.dtype for name, parameter in backbone.model.named_parameters()}
    model = built_on(backbone, "qlora")
    after = {name.replace(".base_layer", ""): p.dtype for name, p in model.get_base_model().named_parameters()}
    assert {name: after[name] for name in before} == before
    assert not model.get_base_model().is_gradient_checkpointing
    train(model, backbone, n_steps=1)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("llama", {"k_proj", "v_proj", "down_proj"}),
        ("qwen2", {"k_proj", "v_proj", "down_proj"}),
        ("gemma", {"k_proj", "v_proj", "down_proj"}),
        ("gpt2", {"c_attn", "c_proj"}),
        ("bert", {"key", "value", "dense"}),
        ("t5", {"k", "v", "wo"}),
        ("bart", {"k_proj", "v_proj", "fc2"}),
    ],
)
def test_ia3_scales_keys_values_and_inner_features(shape: str, expected: set[str], shapes: Shapes) -> None:
    _, model = shapes.built(shape, "ia3")
    names = changed(model, ".ia3_l")
    assert last_parts(names) == expected
    inner = [p for name, p in trained(model).items() if ".ia3_l" in name and p.shape[0] == 1]
    assert {parameter.shape[1] for parameter in inner} == {128 if shape == "gpt2" else 64}
    assert all(bool((p == 1).all()) for name, p in trained(model).items() if ".ia3_l" in name)
    assert "transformer.h.0.attn.c_proj" not in names
    assert "bert.encoder.layer.0.attention.output.dense" not in names


def decoder(folder: Path, kind: str, **sizes: Any) -> Backbone:
    config = AutoConfig.for_model(kind, vocab_size=384, eos_token_id=2, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return load_backbone(folder)


def test_ia3_finds_the_layers_of_a_model_that_pefts_table_lacks(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    backbone = decoder(tmp_path / "olmo", "olmo", **sizes)
    model = built_on(backbone, "ia3")
    assert last_parts(changed(model, ".ia3_l")) == {"k_proj", "v_proj", "down_proj"}
    train(model, backbone, n_steps=1)


def test_ia3_says_when_the_inner_features_cannot_be_told_apart(tmp_path: Path) -> None:
    """With an inner width equal to the model's own, which layer gives the inner features is not to be seen."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    backbone = decoder(tmp_path / "olmo", "olmo", **sizes)
    with pytest.raises(SpecError, match="feed-forward layers of olmo, a olmo model, cannot be told") as caught:
        built_on(backbone, "ia3")
    assert caught.value.field == "method"
    assert "gate_proj" in caught.value.hint


def test_ia3_takes_pefts_table_where_the_structure_does_not_show(tmp_path: Path) -> None:
    backbone = load_backbone(save_tiny(tmp_path / "square", "llama", intermediate_size=32))
    assert last_parts(changed(built_on(backbone, "ia3"), ".ia3_l")) == {"k_proj", "v_proj", "down_proj"}
