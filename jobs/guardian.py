"""Ends process groups when whoever started them is gone, even by kill -9: nothing outlives `make up`.

Runs as a process of its own, in a session of its own. Reads lines from standard input: `+PID` adds a process group,
`-PID` forgets it. When the input ends (the supervisor closed it, or died), it sends SIGTERM to what is left, waits
a few seconds, then sends SIGKILL. Descendants are looked up first, so that a trainer which made a group of its own is
found as well. Standard library and psutil only: it must be small, and up before anything else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable

import psutil

GRACE_S = 6.0


def process_tree(pids: Iterable[int]) -> list[psutil.Process]:
    """The processes and all their descendants that are alive now."""
    tree: dict[int, psutil.Process] = {}
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            for one in (process, *process.children(recursive=True)):
                tree[one.pid] = one
    return list(tree.values())


def group_members(groups: set[int]) -> list[psutil.Process]:
    """Every live process of the groups, also where the leader is gone already."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) in groups and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members


def end(groups: set[int], *, grace_s: float = GRACE_S) -> None:
    """SIGTERM, then SIGKILL after `grace_s`, to the groups and to whatever descends from their members."""
    members = {process.pid: process for process in (*process_tree(groups), *group_members(groups))}
    for process in members.values():
        with contextlib.suppress(psutil.Error):
            process.terminate()
    alive = _wait(list(members.values()), timeout_s=grace_s)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _wait(alive, timeout_s=2)


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _wait(processes: list[psutil.Process], *, timeout_s: float) -> list[psutil.Process]:
    """Those still alive after `timeout_s`. Only looks: reaping them is their parent's, who wants the exit code."""
    deadline = time.monotonic() + timeout_s
    while (alive := [process for process in processes if _is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        word = line.strip()
        if word.startswith("+"):
            groups.add(int(word[1:]))
        elif word.startswith("-"):
            groups.discard(int(word[1:]))
    if groups:
        started = time.monotonic()
        end(groups)
        sys.stderr.write(f"guardian: ended {len(groups)} parts in {time.monotonic() - started:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
