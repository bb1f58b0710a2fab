"""Threads beside the one that a model computes in. Importing this loads no torch."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

_SETTERS = {"libgomp.so.1": "omp_set_num_threads", "libtorch_cpu.so": "MKL_Set_Num_Threads_Local"}
"""What sets the number of threads of the calling thread's own operations, by the library that torch has loaded."""


def helper_threads(n: int, name: str) -> ThreadPoolExecutor:
    """Threads each of which computes alone."""
    return ThreadPoolExecutor(n, thread_name_prefix=name, initializer=compute_alone)


def compute_alone() -> None:
    """The calling thread computes on one core from now on. Nothing happens where torch has other libraries.

    A thread that computes on several has OpenMP workers of its own. As soon as a process has more workers than cores,
    libgomp lets all of them sleep between two operations instead of waiting awake, the model's as well
    (`gomp_throttled_spin_count_var`): a step of many small operations then waits longer than it computes.
    torch.set_num_threads would not do: since some version it sets all threads' number.
    """
    import torch

    torch.get_num_threads()  # torch sets a thread's number when it first looks, not again
    for library, setter in _SETTERS.items():
        with suppress(OSError, AttributeError):
            getattr(ctypes.CDLL(library, mode=os.RTLD_NOLOAD | os.RTLD_LAZY), setter)(1)
