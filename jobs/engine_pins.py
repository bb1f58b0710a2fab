"""What an engine keeps before all else: the adapters that teams call `production`. Runs in a thread of its own.

Asked for again every few seconds, so that a version promoted now is in memory before its first question. A database
that does not answer changes nothing: what was pinned stays so.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ml.engine.serving import Serving

EVERY_S = 10.0
logger = logging.getLogger(__name__)


class Pins:
    def __init__(self, engine: Serving, find: Callable[[str], list[str]]) -> None:
        """`find`: artifacts by the base model's fingerprint, the one to be loaded first at the front."""
        self._engine, self._find = engine, find
        self._pinned: list[str] = []
        self._is_failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pins", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """An adapter that is being loaded is not waited for."""
        self._stop.set()

    def _run(self) -> None:
        self.look()
        while not self._stop.wait(EVERY_S):
            self.look()

    def look(self) -> None:
        """Pins what is in production now."""
        try:
            found = self._find(self._engine.backbone.fingerprint)
            if found != self._pinned:
                self._engine.pin(found)
                self._pinned = found
            self._is_failing = False
        except Exception as error:
            if not self._is_failing:
                logger.warning("what is in production cannot be pinned: %s; trying again", error)
            self._is_failing = True
