"""The adapters that the engine keeps in memory between requests; the least recently used ones go first, pinned ones
last.

`AdapterStore.fetch` may be called from any thread and loads in its executor, so that a slow disk delays only the rows
that need the adapter.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor, Future
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch

from ml.engine.adapters import Adapter
from ml.errors import ArtifactError

Key = TypeVar("Key", bound=Hashable)
logger = logging.getLogger(__name__)


def leaving(sizes: Mapping[Key, int], *, budget_bytes: int, is_pinned: Callable[[Key], bool]) -> list[Key]:
    """What leaves so that the rest fits: the first in `sizes`, which are the least recently used. The last one stays,
    whatever its size; pinned ones leave only when they do not fit by themselves."""
    old, of_pinned = list(sizes)[:-1], sum(size for key, size in sizes.items() if is_pinned(key))
    pinned, others = [key for key in old if is_pinned(key)], [key for key in old if not is_pinned(key)]
    gone = []
    for keys, total in ((others, sum(sizes.values())), (pinned, of_pinned)):
        for key in keys:
            if total <= budget_bytes:
                break
            gone.append(key)
            total -= sizes[key]
    return gone


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
        self._bytes: dict[str, int] = {}
        """Of those that are loaded."""
        self._n_bytes = 0
        self._pinned: frozenset[str] = frozenset()

    def fetch(self, artifact: str) -> Future[Adapter]:
        """The adapter, or its loading under way. Failures are not kept: the next request tries again."""
        with self._lock:
            future = self._futures.get(artifact)
            if future is not None and not (future.done() and future.exception()):
                self._futures.move_to_end(artifact)
                return future
            future = self._executor.submit(self._load, artifact)
            self._futures[artifact] = future
        future.add_done_callback(lambda done: self._settle(artifact, done))
        return future

    def pin(self, artifacts: Sequence[str]) -> None:
        """These leave last. Those not pinned before are loaded in this order, one at a time, until one has to leave
        for another; what cannot be loaded is left to the row that asks for it. Returns when that is done."""
        with self._lock:
            new = [artifact for artifact in artifacts if artifact not in self._pinned]
            self._pinned = frozenset(artifacts)
        loaded: list[str] = []
        for artifact in new:
            if error := self.fetch(artifact).exception():
                logger.warning("adapter %s is not loaded ahead: %s", artifact[:12], error)
                continue
            loaded.append(artifact)
            with self._lock:
                if any(name not in self._futures for name in loaded):
                    return

    def is_pinned(self, artifact: str) -> bool:
        return artifact in self._pinned

    def _load(self, artifact: str) -> Adapter:
        if not artifact or not set(artifact) <= set("0123456789abcdef"):
            raise ArtifactError(f"{artifact!r:.80} is not the sha256 of an artifact.")
        with torch.inference_mode():
            return self._load_from(self._folder_of(artifact), artifact)

    def resident(self, limit: int = 64) -> list[Adapter]:
        """The adapters in memory that were used last, the very last one at the end; 0 is all of them."""
        with self._lock:
            done = (f for f in reversed(self._futures.values()) if f.done() and not f.exception())
            return [future.result() for future in islice(done, limit or None)][::-1]

    def _settle(self, artifact: str, future: Future[Adapter]) -> None:
        """Forgets a load that failed, and what the budget has no room for; rows that use one keep it alive."""
        with self._lock:
            if self._futures.get(artifact) is not future:
                return
            if future.exception():
                del self._futures[artifact]
                return
            self._bytes[artifact] = future.result().n_bytes
            self._n_bytes += self._bytes[artifact]
            if self._n_bytes <= self._budget_bytes:
                return
            sizes = {key: self._bytes.get(key, 0) for key in self._futures}
            for key in leaving(sizes, budget_bytes=self._budget_bytes, is_pinned=self.is_pinned):
                if key in self._bytes:
                    self._n_bytes -= self._bytes.pop(key)
                    del self._futures[key]
