"""The memory plan: exact where it counts, right for shapes nobody has at hand, and a verdict in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from ml.backbone import load_backbone
from ml.checkpoint import trainables
from ml.errors import SpecError
from ml.methods import build
from ml.plan import Plan, advice, plan, verdict
from ml.specs import METHODS, TrainSpec
from tests.ml.running import tiny_spec
from tests.ml.tiny import SHAPES, tiny_config

LLAMA_65B = LlamaConfig(
    hidden_size=8192, intermediate_size=22016, num_hidden_layers=80, num_attention_heads=64, vocab_size=32000
)
PARTS = {"runtime", "weights", "trainables", "gradients", "optimizer", "activations", "buffers", "total"}


def spec_of_65b(method: str, **changes: Any) -> TrainSpec:
    given = {"batch_size": 1, "micro_batch_size": 1, "max_length": 512, "gradient_checkpointing": True}
    return tiny_spec(method, **{**given, **changes})


def of_parts(**changes: int) -> Plan:
    return Plan(**{**dict.fromkeys(PARTS - {"total"}, 0), **changes})


def test_a_65b_model_needs_about_780_gb_for_full_fine_tuning_in_16_bits() -> None:
    """Dettmers et al. 2023 (arXiv 2305.14314), section 1: "more than 780 GB of GPU memory"."""
    needed = plan(spec_of_65b("full"), LLAMA_65B, device="cuda", dtype=torch.bfloat16)
    assert 775e9 < needed.weights + needed.gradients + needed.optimizer < 790e9


def test_a_65b_model_trains_in_less_than_48_gb_with_qlora() -> None:
    needed = plan(spec_of_65b("qlora"), LLAMA_65B, device="cuda", dtype=torch.bfloat16)
    assert 33e9 < needed.weights < 36e9
    assert needed.total < 48e9


@pytest.mark.parametrize("method", ["prompt_tuning", "lora", "ia3", "last_k", "full"])
def test_weights_and_trained_numbers_are_exact(method: str, tiny_llama_dir: Path) -> None:
    spec = tiny_spec(method)
    backbone = load_backbone(tiny_llama_dir)
    needed = plan(spec, backbone.model.config)
    assert needed.weights - 4 * sum(p.numel() for p in backbone.model.parameters()) in range(64)
    n_trained = sum(p.numel() for p in trainables(build(backbone, spec.method, spec.options, spec.seed)).values())
    assert needed.gradients == 4 * n_trained
    assert needed.optimizer - 8 * n_trained in range(1000)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_technique_of_a_family_has_a_plan_for_every_shape(shape: str) -> None:
    for method in METHODS.values():
        if SHAPES[shape] in method.families:
            needed = plan(tiny_spec(method.name), tiny_config(shape, {}), labels=3, family=SHAPES[shape])
            assert needed.weights > 0
            assert needed.activations + needed.buffers > 0


def test_a_deeper_model_is_carried_over_exactly_from_a_shallow_one() -> None:
    """Seven layers are planned from two and three; four from two and three as well; each layer costs the same."""
    totals = [plan(tiny_spec("lora"), tiny_config("llama", {"num_hidden_layers": n})).total for n in (4, 5, 7)]
    assert totals[2] - totals[1] == 2 * (totals[1] - totals[0])


def test_more_rows_at_once_need_more_and_gradient_checkpointing_less() -> None:
    config = tiny_config("llama", {"num_hidden_layers": 8})
    few, many, kept = (
        plan(tiny_spec("lora", micro_batch_size=n, gradient_checkpointing=checkpointing), config)
        for n, checkpointing in ((2, False), (6, False), (6, True))
    )
    assert many.activations > 2.5 * few.activations
    assert kept.activations < 0.5 * many.activations


def test_what_all_rows_share_is_kept_once() -> None:
    config = tiny_config("llama", {})
    alone, shared = (plan(tiny_spec("lora"), config, longest=96, n_shared=n) for n in (0, 60))
    assert shared.activations < 0.7 * alone.activations


def test_the_4_bit_layers_take_half_a_byte_and_an_eighth_of_a_bit_more() -> None:
    config = LlamaConfig(hidden_size=512, intermediate_size=2048, num_hidden_layers=2, num_attention_heads=8,
                         vocab_size=64, tie_word_embeddings=True)  # fmt: skip
    n_linear = 2 * (4 * 512 * 512 + 3 * 512 * 2048)
    nested, plain = (
        plan(tiny_spec("qlora", options={"double_quantization": double}), config).weights for double in (True, False)
    )
    rest = 4 * (64 * 512 + 5 * 512)
    assert plain - rest == pytest.approx(n_linear * (0.5 + 4 / 64), rel=0.001)
    assert nested - rest == pytest.approx(n_linear * (0.5 + 1 / 64 + 4 / 64 / 256), rel=0.01)


def test_a_plan_says_all_its_parts_and_their_sum() -> None:
    said = plan(tiny_spec(), tiny_config("llama", {})).as_dict()
    assert set(said) == PARTS
    assert said["total"] == sum(value for name, value in said.items() if name != "total")
    assert json.loads(json.dumps(said)) == said


def test_a_plan_refuses_what_the_technique_refuses() -> None:
    with pytest.raises(SpecError, match="2 layers"):
        plan(tiny_spec("last_k", options={"k": 5}), tiny_config("llama", {}))


@pytest.mark.parametrize(("free", "said"), [(200, "fits"), (110, "tight"), (99, "does_not_fit")])
def test_above_85_per_cent_of_what_is_free_is_tight(free: int, said: str) -> None:
    assert verdict(of_parts(weights=100), free) == said


def test_advice_names_what_is_missing(tiny_llama_dir: Path) -> None:
    spec = tiny_spec(micro_batch_size=6)
    text = advice(spec, of_parts(weights=4 * 10**9), 10**9)
    assert "The plan is 4.0 GB, 1.0 GB are free" in text
    assert "rows at once to 3" in text
