"""Which device a run may have: one unit of long work a device, kept by a file lock.

Guarantees: the lock is handed to the trainer as well, so it stays held for as long as the trainer lives, also when its
supervisor was killed; two trainers never share a device of one machine. Never imports torch.
Does not weigh memory (jobs/admission.py does): a free device is given to whoever asks first.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

NVIDIA = Path("/proc/driver/nvidia/gpus")
POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device this process holds."""

    name: str
    lock: int
    """File descriptor to hand to the child."""
    env: dict[str, str] = field(default_factory=dict)


def device_names() -> list[str]:
    """The GPUs this process may use by their CUDA numbers, else `cpu`."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        named = [name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
        return named or ["cpu"]
    found = sorted(NVIDIA.iterdir()) if NVIDIA.is_dir() else []
    return [str(number) for number in range(len(found))] or ["cpu"]


def _try_lock(folder: Path, name: str) -> Device | None:
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / f"device-{name.replace('/', '_')}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return Device(name=name, lock=descriptor, env={} if name == "cpu" else {"CUDA_VISIBLE_DEVICES": name})


@contextmanager
def free_device(
    folder: Path, *, is_stopping: Callable[[], bool], on_wait: Callable[[], None]
) -> Iterator[Device | None]:
    """The first device that comes free; None when `is_stopping` says so first. `on_wait` is called once."""
    device, has_waited = None, False
    while device is None and not is_stopping():
        device = next((d for name in device_names() if (d := _try_lock(folder, name))), None)
        if device is None:
            if not has_waited:
                has_waited = True
                on_wait()
            time.sleep(POLL_S)
    try:
        yield device
    finally:
        if device is not None:
            os.close(device.lock)
