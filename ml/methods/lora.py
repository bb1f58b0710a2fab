"""LoRA (Hu et al. 2021, arXiv 2106.09685, section 4.1): W x + (alpha / rank) B A x, with A and B trained.

A starts as PEFT's Kaiming-uniform random numbers (the paper: Gaussian), B as zeros, so training starts at the frozen
model. With rank-stabilized scaling (arXiv 2312.03732) the factor is alpha / sqrt(rank). The output layer is never
wrapped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import LoraConfig, TaskType, get_peft_model

from ml.backbone import Backbone
from ml.errors import SpecError

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "c_attn", "query_key_value", "out_proj", "dense")


def build(backbone: Backbone, options: Mapping[str, Any], seed: int) -> Any:
    """The backbone with low-rank changes in its linear layers. `seed` is already set by the caller."""
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=int(options["rank"]),
        lora_alpha=float(options["alpha"]),  # type: ignore[arg-type]
        lora_dropout=float(options["dropout"]),
        use_rslora=bool(options["rslora"]),
        target_modules="all-linear" if options["targets"] == "all-linear" else _attention_layers(backbone),
    )
    return get_peft_model(backbone.model, config)


def _attention_layers(backbone: Backbone) -> list[str]:
    there = {name.rpartition(".")[2] for name, _ in backbone.model.named_modules()}
    found = [name for name in ATTENTION if name in there]
    if not found:
        raise SpecError(
            f"The attention layers of {backbone.name} are not known by name.",
            hint="Choose every linear layer instead.",
            field="targets",
        )
    return found
