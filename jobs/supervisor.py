"""Keeps a set of processes running: starts them in order of need, restarts what dies, stops everything.

Guarantees: a part starts once the parts it needs are ready; one that dies is started again after 1, 2, 4 … 30 s, and
after 1 s again once it has run for a minute; a task (`once`) which fails ends everything; `stop` ends the parts in
stages, asked then SIGKILL, within about ten seconds, descendants included; nothing survives the supervisor, whatever
ends it (see jobs/guardian.py). Every line a part writes goes to the log sink under its name.
Knows nothing of Coldframe: jobs/up_parts.py says which parts there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from jobs.guardian import end, process_tree

FIRST_DELAY_S, LONGEST_DELAY_S, HEALTHY_AFTER_S = 1.0, 30.0, 60.0
PR_SET_PDEATHSIG = 1


class LogSink(Protocol):
    def line(self, name: str, text: str) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One process to keep."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the supervisor's own environment."""
    cwd: Path | None = None
    after: tuple[str, ...] = ()
    """Names of parts that must be ready before this one starts."""
    ready: Callable[[], Awaitable[bool]] | None = None
    """Asked until it says yes; None: ready as soon as it runs (a task: as soon as it ended well)."""
    once: bool = False
    """A task that ends by itself; restarted only when it fails and `essential` is off."""
    essential: bool = True
    """Of a task: everything stops when it fails."""
    stage: int = 0
    """Parts stop in order of stage, 0 first; those of one stage at the same time."""
    stop_signal: int = signal.SIGTERM
    """What asks it to end."""
    stdin: str = ""
    pass_fds: tuple[int, ...] = ()


def restart_delay(*, n_failures: int, ran_s: float) -> tuple[float, int]:
    """Seconds to wait before the next start, and the count of failures in a row that this makes."""
    n_failures = 1 if ran_s >= HEALTHY_AFTER_S else n_failures + 1
    return min(FIRST_DELAY_S * 2 ** (n_failures - 1), LONGEST_DELAY_S), n_failures


@lru_cache(maxsize=1)
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def leash(parent: int, number: int = signal.SIGTERM) -> Callable[[], None]:
    """For `preexec_fn`: the kernel sends the child this signal when the thread that started it ends."""
    libc = _libc()

    def set_death_signal() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, number)
            if os.getppid() != parent:
                os._exit(0)

    return set_death_signal


async def _exited(process: asyncio.subprocess.Process) -> int:
    """The exit code, as soon as the process itself is gone; `wait()` also waits for children that hold its pipes."""
    while process.returncode is None:
        await asyncio.sleep(0.05)
    return process.returncode


class Supervisor:
    """`await run()` until `stop()` is called or an essential task fails; returns the exit code."""

    def __init__(self, parts: Iterable[Part], *, log: LogSink, grace_s: float = 8.0) -> None:
        self.parts = {part.name: part for part in parts}
        self.log, self.grace_s = log, grace_s
        self.ready = {name: asyncio.Event() for name in self.parts}
        self.running: dict[str, asyncio.subprocess.Process] = {}
        self.n_starts = dict.fromkeys(self.parts, 0)
        self.stopping = asyncio.Event()
        self._code = 0
        self._guardian: asyncio.subprocess.Process | None = None
        unknown = {need for part in self.parts.values() for need in part.after} - set(self.parts)
        if unknown:
            raise ValueError(f"parts that are needed but not there: {sorted(unknown)}")

    def stop(self, code: int = 0) -> None:
        """Ask `run` to end everything and return `code`; a second call changes nothing."""
        if not self.stopping.is_set():
            self._code = code
            self.stopping.set()

    async def run(self) -> int:
        await self._start_guardian()
        keepers = [asyncio.create_task(self._keep(part), name=part.name) for part in self.parts.values()]
        waiting = asyncio.create_task(self.stopping.wait())
        try:
            while not waiting.done():
                done, _ = await asyncio.wait([waiting, *keepers], return_when=asyncio.FIRST_COMPLETED)
                for keeper in done - {waiting}:
                    keepers.remove(keeper)  # type: ignore[arg-type]
                    keeper.result()
        finally:
            self.stopping.set()
            for task in (waiting, *keepers):
                task.cancel()
            await self._end_all()
        return self._code

    async def wait_ready(self, name: str) -> None:
        await self.ready[name].wait()

    async def _keep(self, part: Part) -> None:
        for need in part.after:
            await self.ready[need].wait()
        n_failures = 0
        while not self.stopping.is_set():
            started = time.monotonic()
            code = await self._run_once(part)
            if self.stopping.is_set():
                return
            if part.once and code == 0:
                self.ready[part.name].set()
                return
            if part.once and part.essential:
                self.log.note(f"{part.name} failed with exit code {code}; what it said stands above. Stopping.")
                self.stop(1)
                return
            delay, n_failures = restart_delay(n_failures=n_failures, ran_s=time.monotonic() - started)
            self.log.note(
                f"{part.name} ended with exit code {code} (see {part.name}.log); starting it again in {delay:g} s"
            )
            await asyncio.sleep(delay)

    async def _run_once(self, part: Part) -> int:
        process = await self._spawn(part)
        watcher = asyncio.create_task(self._watch_ready(part))
        pump = asyncio.create_task(self._pump(part, process))
        try:
            code = await _exited(process)
            if not self.stopping.is_set():
                # A part's own children must not work on beside its next start.
                await asyncio.to_thread(end, {process.pid}, grace_s=self.grace_s)
                await asyncio.wait([pump], timeout=1)
                self.running.pop(part.name, None)
                self._tell_guardian(f"-{process.pid}")
            return code
        finally:
            watcher.cancel()
            pump.cancel()

    async def _spawn(self, part: Part) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *part.command,
            env={**os.environ, **part.env},
            cwd=part.cwd,
            stdin=asyncio.subprocess.PIPE if part.stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=2**20,
            pass_fds=part.pass_fds,
            start_new_session=True,
            preexec_fn=leash(os.getpid(), part.stop_signal),
        )
        self.running[part.name] = process
        self.n_starts[part.name] += 1
        self._tell_guardian(f"+{process.pid}")
        if process.stdin:
            process.stdin.write(part.stdin.encode())
            process.stdin.close()
        return process

    async def _watch_ready(self, part: Part) -> None:
        if part.once or self.ready[part.name].is_set():
            return
        while part.ready is not None:
            with contextlib.suppress(OSError, asyncio.TimeoutError, EOFError):
                if await asyncio.wait_for(part.ready(), timeout=5):
                    break
            await asyncio.sleep(0.1)
        self.ready[part.name].set()

    async def _pump(self, part: Part, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - asked for by _spawn
        while True:
            try:
                raw = await process.stdout.readline()
            except ValueError:
                continue  # longer than the limit: dropped by asyncio, the part goes on
            if not raw:
                return
            self.log.line(part.name, raw.decode(errors="replace").rstrip())

    async def _end_all(self) -> None:
        """Stage by stage: TERM to the leaders, who end their own children; then whatever is left, by force."""
        for stage in sorted({part.stage for part in self.parts.values()}):
            running = {
                self.parts[name]: process
                for name, process in self.running.items()
                if self.parts[name].stage == stage and process.returncode is None
            }
            processes = list(running.values())
            family = await asyncio.to_thread(process_tree, [process.pid for process in processes])
            for part, process in running.items():
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(part.stop_signal)
            pumps = [asyncio.create_task(self._pump(part, process)) for part, process in running.items()]
            waits = [asyncio.create_task(_exited(process)) for process in processes]
            if waits:
                await asyncio.wait(waits, timeout=self.grace_s)
            left = {process.pid for process in processes} | {member.pid for member in family if member.is_running()}
            await asyncio.to_thread(end, left, grace_s=1.0)
            if waits:
                # Only now have all who held the pipes let go of them; transports left open would outlive the loop.
                await asyncio.wait([*waits, *pumps], timeout=2)
        await self._end_guardian()

    async def _start_guardian(self) -> None:
        self._guardian = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "jobs.guardian",
            cwd=Path(__file__).resolve().parent.parent,
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
        )

    def _tell_guardian(self, line: str) -> None:
        if self._guardian is not None and self._guardian.stdin is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self._guardian.stdin.write(f"{line}\n".encode())

    async def _end_guardian(self) -> None:
        if self._guardian is None or self._guardian.stdin is None:
            return
        for process in self.running.values():
            self._tell_guardian(f"-{process.pid}")
        with contextlib.suppress(OSError):
            await self._guardian.stdin.drain()
            self._guardian.stdin.close()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._guardian.wait(), timeout=10)
