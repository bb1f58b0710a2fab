"""An engine that an admin drains: it leaves, gives its memory back, and waits without a model until it may serve again.

Guarantees: the memory is free, since the process is replaced by a new one of the same command, which loads nothing
while the drain holds; that needs no supervisor and keeps the process id. Redis that does not answer changes nothing:
who serves goes on, who waits goes on waiting. Not here: who may drain (webapp/services/engines.py).
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from jobs import stream
from ml.errors import UnavailableError

EVERY_S = 1.0
AGAIN = 75
"""Exit code of an engine's run whose process shall begin anew."""
logger = logging.getLogger(__name__)


def is_kept_out(base: str, *, unknown: bool = False) -> bool:
    """Whether the engines of this base model on this host are drained; `unknown` while Redis does not answer."""
    try:
        return stream.is_drained(base, socket.gethostname())
    except UnavailableError as error:
        logger.debug("%s", error.message)
        return unknown


class DrainWatch:
    """A thread beside an engine that serves; calls `leave` once when the engine is drained."""

    def __init__(self, base: str, leave: Callable[[], None]) -> None:
        self._base, self._leave = base, leave
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drains", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            if is_kept_out(self._base):
                self._leave()
                return


def begin_anew() -> NoReturn:
    """Replaces this process by a new one of the same command; what the old one held of memory and files is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # a driver's file that stayed open would hold a GPU's memory
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - its own command once more
