"""Tiny random decoders of many architectures, as transformers makes them: two layers, width 32, a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.ml.tiny import N_VOCABULARY, tiny_tokenizer

_SIZES: dict[str, Any] = {
    "vocab_size": N_VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 512, "initializer_range": 0.15,
}  # fmt: skip
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_LONG_ROPE = {
    "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "factor": 4.0,
    "original_max_position_embeddings": 128, "rope_theta": 10000.0,
}  # fmt: skip
SERVED: dict[str, dict[str, Any]] = {
    "llama": {**_GROUPED, "tie_word_embeddings": True},
    "qwen2": {**_GROUPED, "tie_word_embeddings": True},
    "qwen3": {**_GROUPED, "head_dim": 16},
    "mistral": {**_GROUPED, "sliding_window": None},
    "gemma": {**_GROUPED, "head_dim": 8, "num_key_value_heads": 1},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.15,
             "vocab_size": N_VOCABULARY},
    "phi": {**_GROUPED, "partial_rotary_factor": 0.5},
    "phi3": {**_GROUPED, "rope_parameters": _LONG_ROPE, "original_max_position_embeddings": 128},
}  # fmt: skip
"""Kinds with the settings of real checkpoints: fused or biased layers, partial or long rotation, own head widths."""
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a window in every layer": ("mistral", {**_GROUPED, "sliding_window": 64}, "a sliding window of 64"),
    "a window in some layers": (
        "qwen2", {**_GROUPED, "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
        "sliding_attention",
    ),
    "windows and soft caps": ("gemma2", {**_GROUPED, "head_dim": 8}, "sliding_attention"),
    "soft caps alone": (
        "gemma2", {**_GROUPED, "head_dim": 8, "layer_types": ["full_attention"] * 2}, "soft caps on its logits",
    ),
    "local and global layers": ("gemma3_text", {**_GROUPED, "head_dim": 8}, "sliding_attention"),
    "a fused layer and a window": ("phi3", {**_GROUPED, "sliding_window": 64}, "window of 64"),
    "scaled logits": ("granite", {**_GROUPED, "logits_scaling": 8.0}, "logits differ"),
    "positions by distance": (
        "bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": N_VOCABULARY},
        "does not read its past from slots",
    ),
    "local layers": (
        "gpt_neo",
        {"hidden_size": 32, "num_layers": 2, "attention_types": [[["global", "local"], 1]], "num_heads": 4,
         "max_position_embeddings": 512, "vocab_size": N_VOCABULARY},
        "layers of local attention",
    ),
    "a recurrent state": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": N_VOCABULARY}, "mamba"),
}  # fmt: skip
"""Kind, settings, and what the refusal says."""


def save_kind(folder: Path, kind: str, settings: dict[str, Any], *, dtype: torch.dtype = torch.float32) -> Path:
    """A random model of a kind and its tokenizer, saved in `folder`."""
    tokenizer = tiny_tokenizer()
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = AutoConfig.for_model(kind, **{**ids, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
