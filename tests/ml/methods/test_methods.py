"""Every method of METHODS builds; its settings do what they say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ml.backbone import Backbone, load_backbone
from ml.checkpoint import trainables
from ml.errors import SpecError
from ml.methods import build
from ml.specs import METHODS


def built(folder: Path, method: str, seed: int = 5, **options: Any) -> tuple[Backbone, Any]:
    backbone = load_backbone(folder)
    defaults = {field.name: field.default for field in METHODS[method].fields}
    return backbone, build(backbone, method, {**defaults, **options}, seed)


def vectors(model: Any) -> torch.Tensor:
    return next(iter(trainables(model).values())).detach()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_built_model_trains_only_its_own_fp32_parameters(method: str, tiny_llama_dir: Path) -> None:
    _, model = built(tiny_llama_dir, method)
    trained = trainables(model)
    assert trained
    assert all("lora_" in name or "prompt_encoder" in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert model.active_peft_config.base_model_name_or_path == "tiny-llama"


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_seed_decides_the_start(method: str, tiny_llama_dir: Path) -> None:
    starts = [vectors(built(tiny_llama_dir, method, seed)[1]) for seed in (5, 5, 6)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_an_unknown_method_lists_what_there_is(tiny_llama_dir: Path) -> None:
    with pytest.raises(SpecError, match="Unknown method 'magic'") as caught:
        build(load_backbone(tiny_llama_dir), "magic", {}, 0)
    assert "lora" in caught.value.hint


def test_prompt_tuning_starts_from_a_text_repeated_to_length(tiny_llama_dir: Path) -> None:
    text = "red green"
    backbone, model = built(tiny_llama_dir, "prompt_tuning", init="text", init_text=text, n_virtual_tokens=7)
    ids = backbone.tokenizer(text)["input_ids"]
    table = backbone.model.get_input_embeddings().weight
    assert torch.equal(vectors(model), table[torch.tensor([ids[i % len(ids)] for i in range(7)])])


def test_prompt_tuning_from_an_empty_text_is_refused(tiny_llama_dir: Path) -> None:
    with pytest.raises(SpecError, match="needs a text, got ''") as caught:
        built(tiny_llama_dir, "prompt_tuning", init="text")
    assert caught.value.field == "init_text"


def test_prompt_tuning_samples_words_and_no_control_tokens(tiny_llama_dir: Path) -> None:
    backbone, model = built(tiny_llama_dir, "prompt_tuning", n_virtual_tokens=300)
    table = backbone.model.get_input_embeddings().weight
    nearest = torch.cdist(vectors(model), table).argmin(1).tolist()
    assert not set(nearest) & set(backbone.tokenizer.all_special_ids)
    assert torch.equal(vectors(model), table[torch.tensor(nearest)])


def test_prompt_tuning_from_random_numbers_has_the_embeddings_scale(tiny_llama_dir: Path) -> None:
    backbone, model = built(tiny_llama_dir, "prompt_tuning", init="random", n_virtual_tokens=200)
    table = backbone.model.get_input_embeddings().weight
    assert float(vectors(model).std()) == pytest.approx(float(table.std()), rel=0.1)


@pytest.mark.parametrize(("targets", "n_layers"), [("all-linear", 7), ("attention", 4)])
def test_lora_wraps_the_layers_asked_for(tiny_llama_dir: Path, targets: str, n_layers: int) -> None:
    _, model = built(tiny_llama_dir, "lora", targets=targets)
    wrapped = {name.split(".lora_")[0] for name in trainables(model)}
    assert len(wrapped) == 2 * n_layers
    assert not any("lm_head" in name for name in wrapped)


@pytest.mark.parametrize(("rslora", "scaling"), [(False, 24 / 9), (True, 24 / math.sqrt(9))])
def test_lora_scales_by_alpha_over_rank_or_its_root(tiny_llama_dir: Path, rslora: bool, scaling: float) -> None:
    _, model = built(tiny_llama_dir, "lora", rank=9, alpha=24, rslora=rslora)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == pytest.approx(scaling)
