"""Adapters made by plain peft, for the tests of reading them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
)
from transformers import AutoModelForCausalLM

CONFIGS: dict[str, Callable[[], Any]] = {
    "lora": lambda: LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    "lora_everywhere": lambda: LoraConfig(r=2, target_modules="all-linear", use_rslora=True, init_lora_weights=False),
    "dora": lambda: LoraConfig(r=2, target_modules=["o_proj"], use_dora=True, init_lora_weights=False),
    "ia3": lambda: IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "prompt_tuning": lambda: PromptTuningConfig(num_virtual_tokens=5),
    "p_tuning": lambda: PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=16),
    "prefix_tuning": lambda: PrefixTuningConfig(num_virtual_tokens=3),
    "prefix_projection": lambda: PrefixTuningConfig(
        num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=16
    ),
}  # fmt: skip


def peft_model(base: Path, kind: str) -> Any:
    """A PEFT model of `kind` on the model in `base`, its numbers random."""
    torch.manual_seed(1)
    config = CONFIGS[kind]()
    config.task_type = TaskType.CAUSAL_LM
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture
def lora_folder(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    """What save_pretrained writes for a LoRA of two layer kinds."""
    peft_model(tiny_llama_dir, "lora").save_pretrained(tmp_path / "lora")
    return tmp_path / "lora"
