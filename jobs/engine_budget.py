"""Whether an engine fits: what its model and slots need beside what is free, and what it leaves to runs.

Guarantees: an engine that would not fit is refused before anything of it is loaded, with the sizes and what to lower; a
machine's engines say in their heartbeats what they need, so that a run is not given the same memory, though slots on a
CPU fill only as they are used. Adapters, prefixes and models of their own are not counted: they are loaded later, under
limits of their own, and what does not fit then is refused or evicted. How a run waits for room: jobs/admission.py.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.errors import OutOfMemoryError

NF4_BYTES = 0.5 + 1 / 64
"""Of a number in 4 bits, with its part of its block's scale of 8 bits (Dettmers et al. 2023, arXiv 2305.14314)."""
_STAYS_WHOLE = re.compile(r"embed|wte|wpe|lm_head")
"""Matrices that bitsandbytes leaves as they are."""
LEAST_SHARE = 0.25
"""Of the machine's memory: what a run may hold however much engines need."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Bytes."""

    weights: int
    slots: int

    @property
    def total(self) -> int:
        return self.weights + self.slots


def needs_of(folder: Path, *, n_slots: int, length: int, n_bytes: int = 4, quantization: str = "") -> Needs:
    """Of a decoder in the models folder, from its configuration and the heads of its weight files alone; `n_bytes` of
    each number, those of layers in 4 bits aside."""
    from safetensors import safe_open
    from transformers import AutoConfig

    from ml.engine.cache import heads_of, usable_length
    from ml.loading import weights_of

    weights = 0.0
    for path in weights_of(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                shape = file.get_slice(name).get_shape()
                is_short = quantization and len(shape) == 2 and not _STAYS_WHOLE.search(name)
                weights += math.prod(shape) * (NF4_BYTES if is_short else n_bytes)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    n_layers, n_kv_heads, width = heads_of(config)
    a_token = 2 * n_layers * n_kv_heads * width * n_bytes
    return Needs(weights=int(weights), slots=n_slots * usable_length(config, length) * a_token)


def check_fits(base: str, needs: Needs, *, free: int, n_slots: int, length: int) -> None:
    """Raises OutOfMemoryError when model and slots together are larger than what is free."""
    if needs.total <= free:
        return
    raise OutOfMemoryError(
        f"An engine of {base} needs {gb(needs.total)}: {gb(needs.weights)} for its weights, {gb(needs.slots)} for "
        f"{n_slots} slots of {length} tokens. {gb(free)} are free.",
        hint="Lower ENGINE_SLOTS or ENGINE_LENGTH, serve a smaller base model, or end what else is in the memory.",
    )  # fmt: skip


def gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"


def run_limit(total: int, beats: Sequence[Mapping[str, Any]]) -> int:
    """Bytes that a run's process may hold in this machine's memory of `total`, beside the engines there."""
    return room_of(total, rivals_on("cpu", beats), device="cpu")


def rivals_on(device: str, beats: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Heartbeats of the engines of this machine that hold memory of the device: `cpu`, or a GPU by its CUDA number."""
    return [
        beat for beat in beats
        if beat.get("host") == socket.gethostname() and beat.get("needs_bytes")
        and (beat.get("gpu") or beat.get("device", "cpu")) == device
    ]  # fmt: skip


def room_of(total: int, rivals: Sequence[Mapping[str, Any]], *, device: str) -> int:
    """Bytes that these engines leave to a run: nine tenths of `total` less what they need. Of a machine's memory at
    least a quarter, where slots fill only as they are used; on a GPU nothing is spared."""
    left = 0.9 * total - sum(int(beat["needs_bytes"]) for beat in rivals)
    return int(max(left, LEAST_SHARE * total if device == "cpu" else 0))
