"""What the engine keeps in memory between requests: adapters and computed prefixes, least recently used ones go first.

`AdapterStore.fetch` may be called from any thread and loads in its executor, so that a slow disk delays only the rows
that need the adapter. `PrefixStore` belongs to the model's thread. Keys name everything that a value depends on: two
tasks or teams share a prefix only when they name the very same artifact.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ml.backbone import Backbone
from ml.engine.adapters import Adapter, load_adapter
from ml.errors import ArtifactError


class AdapterStore:
    def __init__(
        self, backbone: Backbone, folder_of: Callable[[str], Path], *, budget_bytes: int, executor: Executor
    ) -> None:
        self._backbone = backbone
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
            return load_adapter(self._folder_of(artifact), artifact=artifact, backbone=self._backbone)

    def resident(self, limit: int = 64) -> list[Adapter]:
        """The adapters in memory that were used last, the very last one at the end."""
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


PrefixKey = tuple[str, str, str]


class PrefixStore:
    """Keys and values [layers, 2, kv heads, p, head width] of tasks' prefixes."""

    def __init__(self, backbone: Backbone, *, budget_bytes: int) -> None:
        self._backbone = backbone
        self._budget_bytes = budget_bytes
        self._kept: OrderedDict[PrefixKey, Tensor] = OrderedDict()
        self.n_bytes = 0
        self.n_computed = 0

    def key_of(self, adapter: Adapter) -> PrefixKey:
        return self._backbone.fingerprint, str(self._backbone.model.dtype), adapter.artifact

    def get(self, adapter: Adapter) -> Tensor:
        """The adapter's prefix; computed when it is not kept. The model must run without LoRA rows."""
        if adapter.prefix is not None:
            return adapter.prefix
        if adapter.embeddings is None:
            raise ValueError(f"an adapter of form {adapter.form} has no prefix")
        key = self.key_of(adapter)
        if key not in self._kept:
            self._kept[key] = self._compute(adapter.embeddings)
            self.n_bytes += self._kept[key].nbytes
            self.n_computed += 1
        self._kept.move_to_end(key)
        prefix = self._kept[key]
        while self.n_bytes > self._budget_bytes and len(self._kept) > 1:
            self.n_bytes -= self._kept.popitem(last=False)[1].nbytes
        return prefix

    def bytes_of(self, adapter: Adapter) -> int:
        """Any thread."""
        kept = self._kept.get(self.key_of(adapter))
        return 0 if kept is None else kept.nbytes

    def _compute(self, embeddings: Tensor) -> Tensor:
        """One pass of the frozen model over the trained embeddings (Lester et al. 2021) gives their keys and values."""
        model: Any = self._backbone.model
        cache: Any = DynamicCache(config=model.config)
        model.base_model(inputs_embeds=embeddings[None], past_key_values=cache, use_cache=True)
        return torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers])
