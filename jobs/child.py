"""The process that does a run's work: started, read, stopped.

Guarantees: the child is the leader of a session of its own, is niced, and dies with the process that started it
(PR_SET_PDEATHSIG), so nothing goes on working on a run whose supervisor was killed. Its standard output is read as JSON
event lines, its standard error as log lines; neither can block or flood the reader. It gets no secrets.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import psutil

PR_SET_PDEATHSIG = 1
CHUNK_BYTES = 1 << 16
LONGEST_LINE_BYTES = 8 << 20
SECRETS = ("SECRET_KEY", "DATABASE_URL", "REDIS_URL", "STORAGE_URL", "AWS_", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
Line = tuple[Literal["event", "log"], dict[str, Any]]


def thread_count() -> int:
    """All cores this process may use, unless OMP_NUM_THREADS says otherwise: the child is niced instead."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else len(os.sched_getaffinity(0))


def child_env(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without secrets, and without a model hub (offline calls retry for 23 s)."""
    n_threads = str(thread_count())
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith(SECRETS)},
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": n_threads,
        "MKL_NUM_THREADS": n_threads,
        **(extra or {}),
    }


def preparation(*, nice: int) -> Callable[[], None]:
    """What runs in a child before exec: nice, and ended when the calling thread ends.

    Linux shares the processor among sessions first where it groups them (sched(7), autogroup): a process' own nice then
    counts within its session only, and it is the session, which must be the child's own, that has to stand back. The
    library is opened here, since a fork may hold its loader's lock.
    """
    parent = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def prepare() -> None:
        os.nice(nice)
        with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as group:
            group.write(str(nice))
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    return prepare


class Child:
    """One started process. Must be made and used in the thread that lives longest: its end kills the child."""

    def __init__(
        self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], pass_fds: Sequence[int] = (), nice: int = 0
    ):
        self.process = subprocess.Popen(
            list(command), cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, pass_fds=pass_fds, start_new_session=True, preexec_fn=preparation(nice=nice),
        )  # fmt: skip
        self._buffers: dict[str, bytearray] = {"event": bytearray(), "log": bytearray()}
        self._selector = selectors.DefaultSelector()
        for name, pipe in (("event", self.process.stdout), ("log", self.process.stderr)):
            assert pipe is not None  # noqa: S101 - asked for just above
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ, name)

    @property
    def pid(self) -> int:
        return self.process.pid

    def read(self, *, timeout_s: float) -> list[Line]:
        """What came within `timeout_s`; empty when nothing did."""
        lines: list[Line] = []
        if not self._selector.get_map():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
            return lines
        for key, _ in self._selector.select(timeout_s):
            try:
                chunk = os.read(key.fd, CHUNK_BYTES)
            except BlockingIOError:
                continue
            if not chunk:
                self._selector.unregister(key.fileobj)
                chunk = b"\n" if self._buffers[key.data] else b""
            lines += self._split(key.data, chunk)
        return lines

    def _split(self, name: str, chunk: bytes) -> list[Line]:
        buffer = self._buffers[name]
        buffer += chunk
        if b"\n" not in chunk and len(buffer) <= LONGEST_LINE_BYTES:
            return []
        *whole, rest = bytes(buffer).split(b"\n")
        if len(rest) > LONGEST_LINE_BYTES:
            whole, rest = [*whole, rest[:1000] + b" ... (line cut)"], b""
        self._buffers[name] = bytearray(rest)
        return [parsed for line in whole if line.strip() and (parsed := _parse(name, line))]

    def memory_bytes(self) -> int:
        """Resident memory of the process and its helpers; 0 once it is gone."""
        try:
            root = psutil.Process(self.pid)
            return sum(int(member.memory_info().rss) for member in (root, *root.children(recursive=True)))
        except psutil.Error:
            return 0

    def is_running(self) -> bool:
        return self.process.poll() is None

    def is_drained(self) -> bool:
        """True once nothing more will come: both pipes closed, or ended with nothing left in them."""
        return not self.is_running() and (not self._selector.get_map() or not self._selector.select(0))

    def signal(self, number: int) -> None:
        """To the whole group, so that helpers of the child hear it too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def close(self) -> int:
        """Ends what is left of the group and returns the exit code (minus the signal's number when one ended it)."""
        self.signal(signal.SIGKILL)
        code = self.process.wait()
        self._selector.close()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        return code


def _parse(name: str, line: bytes) -> Line | None:
    """An event, or a log line; something on standard output that is no event becomes a log line."""
    text = line.decode("utf-8", errors="replace").replace("\x00", "").rstrip()
    if name == "event":
        with contextlib.suppress(ValueError):
            value = json.loads(text)
            if isinstance(value, dict) and isinstance(value.get("event"), str):
                return ("event", value)
    return ("log", {"text": text[:2000]})
