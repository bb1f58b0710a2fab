"""How much memory a training run will need, before it starts: an estimate in bytes, by part.

Weights and trainable parameters are exact (counted on a model without storage). Activations are counted for a
Llama-like layer with every row as long as the longest and nothing shared, so the sum is an upper estimate; attention
is assumed to be fused (no [T, T] matrix). Limits: no quantization, no gradient checkpointing, one device.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass, fields
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from ml.methods.lora import ATTENTION
from ml.specs import TrainSpec

_RUNTIME_BYTES = 550_000_000
_ANSWER_TOKENS = 32
_EVAL_LOGITS_BYTES = 320_000_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Bytes by part; all on the device that trains."""

    runtime: int
    """Libraries and the process itself; on CPU only."""
    weights: int
    trainables: int
    gradients: int
    optimizer: int
    """AdamW: two numbers a trained number."""
    activations: int
    buffers: int
    """Logits, of training or evaluation, whichever is larger."""

    @property
    def total(self) -> int:
        return sum(getattr(self, f.name) for f in fields(self))

    def as_dict(self) -> dict[str, int]:
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"total": self.total}


def plan(
    spec: TrainSpec, config: Any, *, device: str = "cpu", dtype: torch.dtype = torch.float32, longest: int | None = None
) -> Plan:
    """The estimate for `spec` on the model that `config` (a transformers configuration) describes.

    `longest` is the longest row in tokens when it is known; the spec's limit otherwise.
    """
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    n_weights = sum(p.numel() for p in model.parameters())
    n_trained = _n_trained(spec, model)
    n_tokens = spec.micro_batch_size * min(longest or spec.max_length, spec.max_length)
    n_tokens += int(spec.options.get("n_virtual_tokens", 0))
    logits = spec.micro_batch_size * _ANSWER_TOKENS * config.vocab_size * 4 * 3
    return Plan(
        runtime=_RUNTIME_BYTES if device == "cpu" else 0,
        weights=n_weights * dtype.itemsize,
        trainables=n_trained * 4,
        gradients=n_trained * 4,
        optimizer=n_trained * 8,
        activations=n_tokens * _floats_per_token(config, float(spec.options.get("dropout", 0))) * dtype.itemsize,
        buffers=max(logits, _EVAL_LOGITS_BYTES),
    )


def _floats_per_token(config: Any, dropout: float) -> int:
    """What all layers keep for the backward pass: norms, queries, keys, values, attention, residuals, the MLP."""
    width = config.hidden_size
    heads = config.num_attention_heads
    kv = getattr(config, "num_key_value_heads", None) or heads
    inner = getattr(config, "intermediate_size", None) or 4 * width
    dropped = 3 * (6 * width + inner) if dropout else 0  # each wrapped layer keeps its own masked input and the mask
    return config.num_hidden_layers * (dropped + 8 * width + 3 * kv * (width // heads) + 4 * inner)


def _n_trained(spec: TrainSpec, model: Any) -> int:
    options = spec.options
    if "n_virtual_tokens" in options:
        return int(options["n_virtual_tokens"]) * int(model.get_input_embeddings().weight.shape[1])
    head = model.get_output_embeddings()
    total = 0
    for name, module in model.named_modules():
        wrapped = options.get("targets") == "all-linear" or name.rpartition(".")[2] in ATTENTION
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head and wrapped:
            total += sum(module.weight.shape)
    return total * int(options.get("rank", 0))


def free_bytes(device: str) -> int:
    """Bytes that this process may still take on `device`."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free = min(free, max(0, limit - int(psutil.Process().memory_info().vms)))
    return free


def advice(spec: TrainSpec, needed: Plan, free: int) -> str:
    """What would make the run fit, in the words of the form."""
    tips = []
    if spec.micro_batch_size > 1:
        rows = max(1, spec.micro_batch_size // 2)
        saved = (needed.activations + needed.buffers) * (spec.micro_batch_size - rows) // spec.micro_batch_size
        tips.append(f"set rows at once to {rows} (about {saved / 1e9:.1f} GB less, the same result)")
    tips.append(f"set the longest row below {spec.max_length} tokens")
    tips.append("choose a smaller base model")
    return f"The plan is {needed.total / 1e9:.1f} GB, {free / 1e9:.1f} GB are free. Try: " + "; or ".join(tips) + "."
