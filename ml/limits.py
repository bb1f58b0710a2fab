"""What a run may take: tokens a row, memory now, and what to say when memory runs out."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ml.backbone import is_out_of_memory
from ml.errors import OutOfMemoryError, SpecError
from ml.families import n_positions
from ml.plan import Plan, advice, free_bytes
from ml.specs import TrainSpec

_SHORTEST = 8


def usable_length(spec: TrainSpec, config: Any) -> int:
    """Tokens a row may have: the spec's limit, or less when the model has fewer positions beside the virtual tokens."""
    positions = n_positions(config) or spec.max_length
    n_virtual = int(spec.options.get("n_virtual_tokens", 0))
    if positions - n_virtual < _SHORTEST:
        raise SpecError(
            f"{n_virtual} virtual tokens leave no room in the model's {positions} positions.",
            hint="Use fewer virtual tokens.",
            field="n_virtual_tokens",
        )
    return min(spec.max_length, positions - n_virtual)


def peak_bytes(device: str) -> int:
    """The most memory this process ever held on `device`."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def memory_advice(spec: TrainSpec, needed: Plan | None, device: str) -> Iterator[None]:
    """Turns running out of memory into OutOfMemoryError with what would make the run fit."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"There is not enough memory for {spec.micro_batch_size} rows at once of up to {spec.max_length} tokens.",
            hint=advice(spec, needed, free_bytes(device))
            if needed
            else "Set fewer rows at once, or a shorter longest row.",
            field="micro_batch_size",
        ) from error
