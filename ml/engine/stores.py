"""The adapters that the engine keeps in memory between requests; the least recently used ones go first.

`AdapterStore.fetch` may be called from any thread and loads in its executor, so that a slow disk delays only the rows
that need the adapter.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path

import torch

from ml.engine.adapters import Adapter
from ml.errors import ArtifactError


class AdapterStore:
    def __init__(
        self, load: Callable[[Path, str], Adapter], folder_of: Callable[[str], Path], *, budget_bytes: int,
        executor: Executor,
    ) -> None:  # fmt: skip
        """`load` makes an adapter of its folder and its sha256."""
        self._load_from = load
        self._folder_of = folder_of
        self._budget_bytes = budget_bytes
        self._executor = executor
        self._lock = threading.Lock()
        self._futures: OrderedDict[str, Future[Adapter]] = OrderedDict()

    def fetch(self, artifact: str) -> Future[Adapter]:
        """The adapter, or its loading under way. Failures are not kept: the next request tries again."""
        with self._lock:
            future = self._futures.get(artifact)
            if future is not None and not (future.done() and future.exception()):
                self._futures.move_to_end(artifact)
                return future
            future = self._executor.submit(self._load, artifact)
            self._futures[artifact] = future
        future.add_done_callback(lambda _: self._trim())
        return future

    def _load(self, artifact: str) -> Adapter:
        if not artifact or not set(artifact) <= set("0123456789abcdef"):
            raise ArtifactError(f"{artifact!r:.80} is not the sha256 of an artifact.")
        with torch.inference_mode():
            return self._load_from(self._folder_of(artifact), artifact)

    def resident(self, limit: int = 64) -> list[Adapter]:
        """The adapters in memory that were used last, the very last one at the end; 0 is all of them."""
        with self._lock:
            done = [f for f in self._futures.values() if f.done() and not f.exception()]
        return [future.result() for future in done[-limit:]]

    def _trim(self) -> None:
        """Forgets the least recently used ones beyond the budget; rows that use one keep it alive."""
        with self._lock:
            sizes = {
                key: 0 if future.exception() else future.result().n_bytes
                for key, future in self._futures.items()
                if future.done()
            }
            total = sum(sizes.values())
            for key, size in sizes.items():
                is_failed = self._futures[key].exception() is not None
                if is_failed or (total > self._budget_bytes and key != next(reversed(self._futures))):
                    del self._futures[key]
                    total -= size
