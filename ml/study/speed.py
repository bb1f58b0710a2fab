"""How fast this machine is, from a probe of some tenths of a second, and how long counted work takes on it.

A CPU is probed with one thread and in processor seconds, so that a busy machine looks as fast as it is when idle; more
threads are taken to be worth their number to the power of `SCALING`. Guarantees: probed once in a process for a device,
a width and a type. Limits: what is probed are products and copies; `EFFICIENCY` says what real work reached of them
with the starter model on one core, and other machines may reach more or less. On CUDA nothing was calibrated.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch

from ml.plan.work import Work

PROBE_S = 0.1
SCALING = 0.9
Kind = Literal["train", "look", "read", "write"]
EFFICIENCY: dict[Kind, float] = {"train": 1.3, "look": 1.12, "read": 1.18, "write": 0.32}
"""Of the probed speed: steps, looks at validation rows, prompts and labels read by the engine, tokens written by it."""
FILE_COST = 12.0
"""Bytes moved in the time that one byte of weights takes to be written to a file and hashed, or read and checked."""
_ROWS, _WIDEST, _BLOCK_BYTES = {"cpu": 256, "cuda": 4096}, 4096, 64 << 20


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What the machine does a second."""

    flops: float
    """Multiplications and additions in products."""
    bandwidth: float
    """Bytes that products can read and write."""
    moved: float
    """Bytes read and written by all else, which puts its results into memory of their own."""
    calls: float
    """Operations on next to nothing."""

    def seconds(self, work: Work, kind: Kind) -> float:
        """Products are bound by arithmetic or by the bytes of their tensors, everything else by bytes, and all of it
        by how fast operations can be started."""
        products = max(work.flops / self.flops, work.operands / self.bandwidth)
        return max(products + work.moved / self.moved, work.calls / self.calls) / EFFICIENCY[kind]

    def file_s(self, n_bytes: float) -> float:
        return FILE_COST * n_bytes / self.moved


def speed_of(device: str, width: int, *, dtype: torch.dtype = torch.float32, threads: int = 1) -> Speed:
    """For a model of that width; `threads` of a CPU."""
    kind = device.partition(":")[0]
    found = _probed(kind, min(width, _WIDEST), dtype)
    if kind != "cpu" or threads < 2:
        return found
    more = threads**SCALING
    return Speed(flops=more * found.flops, bandwidth=more * found.bandwidth, moved=more * found.moved,
                 calls=found.calls)  # fmt: skip


def all_cores() -> int:
    """Threads that a study's process gets (jobs/child.py)."""
    return len(os.sched_getaffinity(0))


@lru_cache(maxsize=16)
def _probed(device: str, width: int, dtype: torch.dtype) -> Speed:
    with _one_thread(), torch.inference_mode():
        n_rows = _ROWS.get(device, 256)
        a = torch.ones(n_rows, width, device=device, dtype=dtype)
        b = torch.ones(width, 4 * width, device=device, dtype=dtype)
        block = torch.ones(_BLOCK_BYTES // 4, device=device)
        copy, one = torch.empty_like(block), torch.ones(1, device=device)
        return Speed(
            flops=_rate(lambda: a @ b, device) * 2 * n_rows * width * 4 * width,
            bandwidth=_rate(lambda: copy.copy_(block), device) * 2 * _BLOCK_BYTES,
            moved=_rate(block.clone, device) * 2 * _BLOCK_BYTES,
            calls=_rate(lambda: one.add_(1), device),
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rate(action: Callable[[], Any], device: str) -> float:
    """Calls a second: those of the fastest stretch of the probe."""

    def clock() -> float:
        if device != "cuda":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    action()
    n, best, began = 1, 0.0, clock()
    while (start := clock()) - began < PROBE_S:
        for _ in range(n):
            action()
        took = clock() - start
        best = max(best, n / took if took > 0 else 0.0)
        n = n if took > PROBE_S / 10 else 2 * n
    return best
