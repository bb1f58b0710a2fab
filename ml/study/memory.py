"""The most memory that a stretch of work takes, in a process that did other work before.

Only the growth counts, with what the model's tensors take put on top: what else the process holds (an engine, another
model) is not the work's. On CUDA the allocator says it. On a CPU what the process holds is sampled, freed memory is
given back to the system first, and the libraries are put on top too (as `ml.plan` counts them). Limits: an allocation
shorter than the sampling pause is missed, and other threads' memory counts in.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from types import TracebackType

import psutil
import torch

from ml.plan import RUNTIME_BYTES

PAUSE_S = 0.05


class Peak:
    """`with Peak(device, held=…) as peak: …`, then `peak.n_bytes`."""

    def __init__(self, device: str, *, held: int) -> None:
        """`held`: bytes that the work needs and that are there before it begins."""
        self._device, self.held, self.n_bytes = device, held, 0
        self._stop = threading.Event()
        self._process = psutil.Process()

    def __enter__(self) -> Peak:
        gc.collect()
        if self._device.startswith("cuda"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
            return self
        give_back()
        self._before = self._most = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._sample, name="memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._device.startswith("cuda"):
            self.n_bytes = int(torch.cuda.max_memory_allocated(self._device)) - self._before + self.held
            return
        self._stop.set()
        self._thread.join()
        self.n_bytes = max(0, self._most - self._before) + self.held + RUNTIME_BYTES

    def _sample(self) -> None:
        while not self._stop.wait(PAUSE_S):
            self._most = max(self._most, self._process.memory_info().rss)


def give_back() -> None:
    """Returns freed memory to the system where the C library can."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
