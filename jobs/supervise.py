"""A run's supervisor: claims it, runs its child process, keeps what the child says, and ends or hands back the run.

Guarantees: the lease is renewed by a thread of its own for as long as the child works; whoever lost the lease kills the
child and writes nothing more; a cancelled child gets SIGTERM, 30 s to write a checkpoint, then SIGKILL; being told to
stop (SIGTERM) hands the run back without using up an attempt; a child that says nothing for too long, or grows beyond
its memory, is stopped. Waits out a database that is away. Never imports torch. How an ended child is judged is in
jobs/verdict.py.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import close_old_connections, connection

from jobs import stream
from jobs.admission import wait_for_room
from jobs.child import Child, child_env
from jobs.commands import extra_env, prepare, workdir_of
from jobs.devices import Device, free_device
from jobs.engine_budget import run_limit
from jobs.notes import Notes
from jobs.queue import QUEUE_OF
from jobs.verdict import Ending, conclude
from ml.errors import ColdframeError, UnavailableError
from webapp.models import Run
from webapp.services.run_leases import Claim, run_beat, run_claim, run_fail, run_record, run_started

logger = logging.getLogger(__name__)
T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
GRACE_S = 30.0
FLUSH_S = 1.0
WEIGH_S = 2.0
SILENCE_S, SILENCE_STEPS = 900.0, 10
BEATS_A_LEASE = 6


def supervise(run_id: int, *, limit_s: float = 0) -> str:
    """Does the run if it is waiting; returns what became of it, for the log. `limit_s` 0 means no limit."""
    stop = threading.Event()
    with _stop_on_sigterm(stop):
        kind = Run.objects.filter(pk=run_id, state=Run.State.QUEUED).values_list("kind", flat=True).first()
        if kind is None:
            return "not waiting"
        with _device_for(kind, run_id, stop) as device:
            if device is not None:
                wait_for_room(run_id, device.name, stop)
            if device is None or stop.is_set():
                return "told to stop"
            claim = run_claim(run_id=run_id, owner=f"{socket.gethostname()}:{os.getpid()}")
            if claim is None:
                return "someone else's"
            outcome = _work(claim, device=device, stop=stop, limit_s=limit_s)
    logger.info("run %s attempt %s: %s", run_id, claim.attempt, outcome)
    return outcome


@contextmanager
def _stop_on_sigterm(stop: threading.Event) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _device_for(kind: str, run_id: int, stop: threading.Event) -> Any:
    if QUEUE_OF[kind] != "gpu":
        return nullcontext(Device(name="cpu", lock=-1))

    def say_so() -> None:
        text = "Another run has the device."
        Run.objects.filter(pk=run_id, state=Run.State.QUEUED).update(waiting_for=text)

    return free_device(Path(settings.VAR_DIR) / "locks", is_stopping=stop.is_set, on_wait=say_so)


def _work(claim: Claim, *, device: Device, stop: threading.Event, limit_s: float) -> str:
    try:
        run = Run.objects.get(pk=claim.run_id)
        command, extra = prepare(run), extra_env(run)
    except ColdframeError as error:
        run_fail(claim=claim, error=error.as_dict())
        return f"failed before it began: {error.code}"
    locks = (device.lock,) if device.lock >= 0 else ()
    # A worker's SIGKILL must not leave a trainer behind, so the child is made by this thread, which outlives it.
    child = Child(command, cwd=ROOT, env=child_env({**device.env, **extra}), pass_fds=locks, nice=settings.RUN_NICE)
    beats = Beats(claim)
    beats.start()
    try:
        notes = Notes(workdir_of(run.pk), progress=run.progress)
        return Watch(claim, child, notes=notes, beats=beats, stop=stop, limit_s=limit_s).run()
    finally:
        child.close()
        beats.stop()


class Beats(threading.Thread):
    """Renews the lease until stopped; `is_lost` once the run is someone else's."""

    def __init__(self, claim: Claim) -> None:
        super().__init__(name=f"beats-{claim.run_id}", daemon=True)
        self.claim, self._stopped, self._lost = claim, threading.Event(), threading.Event()

    @property
    def is_lost(self) -> bool:
        return self._lost.is_set()

    def run(self) -> None:
        pause = settings.RUN_LEASE_S / BEATS_A_LEASE
        while not self._stopped.wait(pause):
            try:
                if run_beat(claim=self.claim) == "lost":
                    self._lost.set()
                    break
                pause = settings.RUN_LEASE_S / BEATS_A_LEASE
            except DatabaseError as error:
                logger.warning("run %s: no beat, the database is away: %s", self.claim.run_id, type(error).__name__)
                connection.close()
                pause = min(1.0, settings.RUN_LEASE_S / BEATS_A_LEASE)
        connection.close()

    def stop(self) -> None:
        self._stopped.set()
        if self.is_alive():
            self.join(timeout=10)


class Watch:
    """Reads one child until it ends, and stops it when there is reason to."""

    def __init__(
        self, claim: Claim, child: Child, *, notes: Notes, beats: Beats, stop: threading.Event, limit_s: float
    ) -> None:
        self.claim, self.child, self.notes = claim, child, notes
        self.beats, self.stop, self.limit_s = beats, stop, limit_s
        self.reason = ""
        self._asked_at = 0.0
        self._began = self._heard = self._flushed = time.monotonic()
        self._is_started = self._is_cancelled = False
        self._weighed = 0.0
        self._step_s: deque[float] = deque(maxlen=50)

    def run(self) -> str:
        while not (self.child.is_drained() or self.beats.is_lost or self.reason == "lost"):
            for kind, data in self.child.read(timeout_s=0.25):
                self._hear(kind, data)
            if time.monotonic() - self._flushed >= FLUSH_S:
                self._flush()
            self._decide()
        if self.beats.is_lost or self.reason == "lost":
            self.child.close()
            return "lost the lease"
        code = self.child.close()
        if insist(self._flush_all) == "lost":
            return "lost the lease"
        ending = Ending(claim=self.claim, code=code, reason=self.reason, notes=self.notes)
        return insist(lambda: conclude(ending))

    def _hear(self, kind: str, data: dict[str, Any]) -> None:
        now = time.monotonic()
        if kind == "event":
            if data["event"] == "step":
                self._step_s.append(now - self._heard)
            self._heard = now
        self.notes.add(kind, data)

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        try:
            held = self._flush_all()
        except DatabaseError as error:
            logger.warning("run %s: the database is away: %s", self.claim.run_id, type(error).__name__)
            connection.close()
            return
        if held == "lost":
            self.reason = "lost"
        self._is_cancelled = held == "cancel"

    def _flush_all(self) -> str:
        if not self._is_started and self.notes.has_spoken:
            self._is_started = run_started(claim=self.claim)
        batch = self.notes.batch()
        held = run_record(claim=self.claim, progress=batch.progress, events=batch.events, metrics=batch.metrics)
        self.notes.written(batch)
        return held

    def _decide(self) -> None:
        now = time.monotonic()
        if not self._asked_at:
            silence_s = max(SILENCE_S, SILENCE_STEPS * statistics.median(self._step_s or [0]))
            if self._is_cancelled:
                self._ask("cancel")
            elif self.stop.is_set():
                self._ask("restart")
            elif now - self._heard > silence_s:
                self._ask("stall")
            elif self.limit_s and now - self._began > self.limit_s:
                self._ask("limit")
            elif self._is_too_big(now):
                self._ask("memory")
                self.child.signal(signal.SIGKILL)
        elif now - self._asked_at > GRACE_S:
            self.child.signal(signal.SIGKILL)

    def _is_too_big(self, now: float) -> bool:
        """Before the kernel ends some other process of this machine instead."""
        if now - self._weighed < WEIGH_S:
            return False
        self._weighed = now
        return self.child.memory_bytes() > (settings.RUN_MEMORY_BYTES or _memory_limit())

    def _ask(self, reason: str) -> None:
        self.reason, self._asked_at = reason, time.monotonic()
        logger.info("run %s: asking the child to stop (%s)", self.claim.run_id, reason)
        self.child.signal(signal.SIGTERM)


def _memory_limit() -> int:
    """Bytes that a run may hold beside the engines of this machine; beside none while Redis is away."""
    beats: list[dict[str, Any]] = []
    with suppress(UnavailableError):
        beats = stream.engines()
    return run_limit(psutil.virtual_memory().total, beats)


def insist(action: Callable[[], T], *, for_s: float = 600.0) -> T:
    """Repeats what the database refused because it was away, for ten minutes; the lease decides in the end."""
    deadline, pause = time.monotonic() + for_s, 0.2
    while True:
        try:
            return action()
        except DatabaseError:
            if time.monotonic() > deadline:
                raise
            logger.warning("the database is away, trying again", exc_info=True)
            if not connection.in_atomic_block:
                close_old_connections()
            time.sleep(pause)
            pause = min(pause * 2, 5.0)
