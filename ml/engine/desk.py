"""What the engines have in common: where requests and cancellations wait for the model's thread, and rows for adapters.

Guarantees: a request that is under way already is not taken twice; one whose time is over is handed out once a step
until it has ended; an adapter that cannot be loaded fails the rows that asked for it and no others. What a row then
goes through is the engine's (ml.engine.engine, ml.vllm.engine).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from queue import Empty, SimpleQueue

from ml.engine.stores import AdapterStore
from ml.engine.types import Done, Event, Failed, Row
from ml.errors import ColdframeError, UnavailableError

logger = logging.getLogger(__name__)


class Desk:
    adapters: AdapterStore

    def __init__(self) -> None:
        self._inbox: SimpleQueue[Row] = SimpleQueue()
        self._cancels: SimpleQueue[str] = SimpleQueue()
        self._rows: dict[str, Row] = {}
        self._wake = threading.Event()
        self._events: list[Event] = []

    # Any thread

    def cancel(self, request_id: str) -> None:
        """The row ends with Done(finish_reason="cancelled") in the next step; an unknown id does nothing."""
        self._cancels.put(request_id)
        self._wake.set()

    @property
    def is_idle(self) -> bool:
        """Nothing to do and nothing waiting."""
        return not self._rows and self._inbox.empty()

    def _receive(self, row: Row) -> None:
        self._inbox.put(row)
        self._wake.set()

    # The model's thread

    def _emit(self, event: Event) -> None:
        self._events.append(event)
        if isinstance(event, Done | Failed):
            self._rows.pop(event.id, None)

    def _arrived(self) -> Iterator[Row]:
        while True:
            try:
                row = self._inbox.get_nowait()
            except Empty:
                return
            if row.request.id in self._rows:
                logger.warning("request %s is under way already", row.request.id)
                continue
            self._rows[row.request.id] = row
            yield row

    def _cancelled(self) -> Iterator[Row]:
        while True:
            try:
                row = self._rows.get(self._cancels.get_nowait())
            except Empty:
                return
            if row is not None:
                yield row

    def _expired(self) -> list[Row]:
        now = time.monotonic()
        return [row for row in self._rows.values() if row.request.deadline < now]

    def _load(self, row: Row) -> None:
        if row.request.artifact is not None:
            row.loading = self.adapters.fetch(row.request.artifact)
            row.loading.add_done_callback(lambda _: self._wake.set())

    def _settle(self, staged: Sequence[Row]) -> None:
        """Staged rows get the adapters that have come."""
        for row in [row for row in staged if row.state == "loading"]:
            if row.loading is not None and not row.loading.done():
                continue
            try:
                self._equip(row)
            except ColdframeError as error:
                self._fail(row, error)
            except Exception as error:
                logger.exception("adapter %s could not be loaded", row.request.artifact)
                self._fail(row, UnavailableError(f"Adapter {row.request.artifact} could not be loaded: {error}."))

    def _equip(self, row: Row) -> None:
        """The row's adapter, and what follows from it. Raises ColdframeError."""
        raise NotImplementedError

    def _fail(self, row: Row, error: ColdframeError) -> None:
        raise NotImplementedError


def out_of_time(row: Row) -> UnavailableError:
    return UnavailableError(
        f"The answer was not finished in time; it has {len(row.answer)} tokens.",
        hint="Ask for a shorter answer, or try again when fewer rows are running.",
        code="deadline",
    )
