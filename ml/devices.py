"""What a model computes on, and in which numbers. Nothing is probed before it is asked for."""

from __future__ import annotations

import torch

from ml.errors import SpecError


def device_named(name: str) -> str:
    """`cpu` or `cuda` for cpu, cuda or auto: a GPU where torch finds one. Raises SpecError when there is no such."""
    if name == "cuda" and not torch.cuda.is_available():
        raise SpecError(
            "There is no CUDA device here.",
            hint="Choose cpu or auto, or install a driver and a build of torch for CUDA.",
            field="device",
        )
    return "cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu"


def dtype_on(device: str) -> torch.dtype:
    """bfloat16 on a GPU that has it, else float32."""
    is_short = device.startswith("cuda") and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if is_short else torch.float32
