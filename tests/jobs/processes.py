"""Whether a process still lives, asked in one call: between two it can vanish."""

from __future__ import annotations

import psutil


def is_alive(pid: int) -> bool:
    """Not so for one that ended and was not waited for."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
