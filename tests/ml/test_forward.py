"""Shared prefixes and the shortened output layer on architectures other than Llama: equal to each row alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ml.backbone import Backbone, load_backbone
from ml.data.chat import Example, completion_ids, example_ids
from ml.errors import ModelError
from ml.evaluate.scoring import score_labels
from ml.forward import completion_nll
from ml.methods import build
from ml.specs import METHODS
from tests.ml.conftest import tiny_tokenizer

SIZES = {"vocab_size": 384, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "max_position_embeddings": 256, "initializer_range": 0.15}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 384, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.15},
    "gpt_neox": {**SIZES, **HEADS},
    "qwen2": {**SIZES, **HEADS, "num_key_value_heads": 2},
    "granite": {**SIZES, **HEADS, "num_key_value_heads": 2, "logits_scaling": 3.0, "embedding_multiplier": 2.0},
}


def save(folder: Path, kind: str, **values: Any) -> Path:
    config = AutoConfig.for_model(kind, **{**ARCHITECTURES.get(kind, {}), "eos_token_id": 2, **values})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def examples_for(backbone: Backbone) -> list[Example]:
    asked = ["the frog", "x", "the tomato that lay on the boundary"]
    messages = [[{"role": "user", "content": f"What colour is {thing}?"}] for thing in asked]
    return [example_ids(backbone.tokenizer, m, "bluish green", 128) for m in messages]


@pytest.mark.parametrize("method", sorted(name for name, method in METHODS.items() if method.storage != "head"))
@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_losses_and_label_scores_equal_each_row_alone(kind: str, method: str, tmp_path: Path) -> None:
    quantization = "nf4" if method == "qlora" else ""
    backbone = load_backbone(save(tmp_path / "model", kind), quantization=quantization)
    options = {field.name: field.default for field in METHODS[method].fields}
    model = build(backbone, method, options, 3).eval()
    for parameter in (p for p in model.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.2)
    examples, label = examples_for(backbone), completion_ids(backbone.tokenizer, "bluish green")
    with torch.no_grad():
        nll, owner = completion_nll(model, examples)
        scores = score_labels(model, [e.ids[: e.n_prompt] for e in examples], [label, label[1:]])
        for row, example in enumerate(examples):
            ids = torch.tensor([example.ids])
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(example.ids) :]
            logprobs = logits.log_softmax(-1)[example.n_prompt - 1 : -1]
            alone = -logprobs.gather(1, ids[0, example.n_prompt :, None])[:, 0]
            assert torch.allclose(nll[owner == row], alone, atol=2e-4)
            assert float(scores[row, 0]) == pytest.approx(-float(alone.sum()), abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "values", "complaint"),
    [
        ("mistral", {**SIZES, **HEADS, "num_key_value_heads": 2, "sliding_window": 16}, "a sliding window of 16"),
        ("gemma3_text", {**SIZES, **HEADS, "num_key_value_heads": 2, "head_dim": 8}, "sliding_attention"),
        ("mamba", {"vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, "no attention"),
    ],
)
def test_models_with_another_kind_of_past_are_refused(
    kind: str, values: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=complaint):
        load_backbone(save(tmp_path / "model", kind, **values))
