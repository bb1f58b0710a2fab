"""Learning rates and optimizers.

The schedule is a function of the step, so it has no state to save. AdamW (Loshchilov and Hutter, arXiv 1711.05101) from
torch, in one pass over each tensor (fused: a quarter of the time on a CPU); on CUDA its paged and 8-bit forms from
bitsandbytes (Dettmers et al., arXiv 2110.02861 and 2305.14314), and its 32-bit form for weights that are themselves
16-bit. Without CUDA all of them are torch's AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ml.specs import TrainSpec


def learning_rate_at(spec: TrainSpec, step: int) -> float:
    """The learning rate of optimizer step `step` (from 0)."""
    warm = round(spec.warmup_ratio * spec.steps)
    if step < warm:
        return spec.learning_rate * (step + 1) / warm
    share = (step - warm) / max(1, spec.steps - warm)
    factor = {"cosine": 0.5 * (1 + math.cos(math.pi * share)), "linear": 1 - share, "constant": 1.0}
    return spec.learning_rate * factor[spec.schedule]


def is_torch_adamw(spec: TrainSpec, parameters: Sequence[torch.nn.Parameter], device: str) -> bool:
    """Whether `optimizer_for` gives torch's AdamW: without CUDA always, with it for plain AdamW on float32 weights."""
    is_short = any(p.dtype != torch.float32 for p in parameters)
    return not device.startswith("cuda") or (spec.optimizer == "adamw" and not is_short)


def optimizer_for(spec: TrainSpec, parameters: Sequence[torch.nn.Parameter], device: str) -> torch.optim.Optimizer:
    """The optimizer that `spec` asks for, as far as `device` has it."""
    if is_torch_adamw(spec, parameters, device):
        return torch.optim.AdamW(
            parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=device != "meta"
        )
    from bitsandbytes.optim.adamw import AdamW, AdamW8bit, PagedAdamW

    kind: Any = {"adamw": AdamW, "paged_adamw": PagedAdamW, "adamw_8bit": AdamW8bit}[spec.optimizer]
    made: torch.optim.Optimizer = kind(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay)
    return made
