"""A plan's parts, and what they mean beside the memory that is free."""

from __future__ import annotations

import resource
from dataclasses import dataclass, fields
from typing import Literal

import psutil
import torch

Verdict = Literal["fits", "tight", "does_not_fit"]
_TIGHT = 0.85


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Bytes by part, at the run's highest moment; all on the device that trains."""

    runtime: int
    """Libraries and the process itself; on CPU only."""
    weights: int
    """The base model, quantized where it is."""
    trainables: int
    """What the technique adds to it."""
    gradients: int
    optimizer: int
    """The optimizer's two numbers a trained number."""
    activations: int
    """What the forward pass keeps for the backward pass."""
    buffers: int
    """What else is alive at that moment: logits, weights unpacked on the way, the evaluation's batch."""

    @property
    def total(self) -> int:
        return sum(getattr(self, f.name) for f in fields(self))

    def as_dict(self) -> dict[str, int]:
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"total": self.total}


def verdict(needed: Plan, free: int) -> Verdict:
    """Whether `needed` fits into `free` bytes: tight above 85 % of them."""
    if needed.total > free:
        return "does_not_fit"
    return "tight" if needed.total > _TIGHT * free else "fits"


def free_bytes(device: str) -> int:
    """Bytes that this process may still take on `device`."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free = min(free, max(0, limit - int(psutil.Process().memory_info().vms)))
    return free


def total_bytes(device: str) -> int:
    """Bytes that `device` has, free or not."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[1])
    return int(psutil.virtual_memory().total)
