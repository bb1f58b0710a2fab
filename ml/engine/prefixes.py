"""Keys and values that slots begin with: tasks' prefixes, and beginnings of prompts that come again.

Belongs to the model's thread. Keys name everything that a value depends on, and whose it is: two tasks or teams share a
task's prefix only when they name the very same artifact, and a prompt's beginning never (ml.engine.beginnings). Kept
under one budget of bytes; the least recently used go first, the prefixes of pinned tasks last.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from ml.backbone import Backbone
from ml.engine.adapters import Adapter
from ml.engine.beginnings import Beginnings, Flow, Found, Key
from ml.engine.runner import Runner
from ml.engine.stores import leaving
from ml.engine.types import Row

PrefixKey = tuple[str, str, str, str]
"""Base fingerprint, dtype, adapter, and what it is the prefix of: "" or a text's key."""


class PrefixStore:
    """Keys and values [layers, 2, kv heads, p, head width] of tasks' prefixes and of prompts' beginnings."""

    def __init__(self, backbone: Backbone, *, budget_bytes: int) -> None:
        self._backbone = backbone
        self._budget_bytes = budget_bytes
        self._kept: OrderedDict[PrefixKey, Tensor] = OrderedDict()
        self.pinned: frozenset[str] = frozenset()
        """Adapters whose prefixes leave last."""
        self.n_bytes = 0
        self.n_computed = 0
        """Tasks' prefixes that were computed, and that were there when a row asked."""
        self.n_found = 0

    def key_of(self, artifact: str, text: str = "") -> PrefixKey:
        return self._backbone.fingerprint, str(self._backbone.model.dtype), artifact, text

    def write(self, adapter: Adapter, slot: int, runner: Runner) -> None:
        """Fills an empty slot's first columns with the adapter's prefix; it is computed there when it is not kept."""
        key = self.key_of(adapter.artifact)
        if adapter.prefix is not None:
            runner.write_prefix(slot, adapter.prefix)
        elif adapter.embeddings is None:
            raise ValueError(f"an adapter of form {adapter.form} has no prefix")
        elif key in self._kept:
            self.n_found += 1
            runner.write_prefix(slot, self.get(key))
        else:
            self.n_computed += 1
            runner.compute_prefix(slot, adapter.embeddings)
            self.put(key, runner.read_prefix(slot, adapter.prefix_tokens))

    def __contains__(self, key: PrefixKey) -> bool:
        return key in self._kept

    def get(self, key: PrefixKey) -> Tensor:
        """Raises KeyError when it is not kept."""
        self._kept.move_to_end(key)
        return self._kept[key]

    def put(self, key: PrefixKey, prefix: Tensor) -> None:
        """Keeps it, at the cost of those that were used longest ago; at least this one stays."""
        self.drop(key)
        self._kept[key] = prefix
        self.n_bytes += prefix.nbytes
        if self.n_bytes > self._budget_bytes:
            sizes = {kept: tensor.nbytes for kept, tensor in self._kept.items()}
            for old in leaving(sizes, budget_bytes=self._budget_bytes, is_pinned=self._is_pinned):
                self.drop(old)

    def _is_pinned(self, key: PrefixKey) -> bool:
        """Of a task's own prefix; beginnings of prompts are never pinned."""
        return key[2] in self.pinned and not key[3]

    def drop(self, key: PrefixKey) -> None:
        if key in self._kept:
            self.n_bytes -= self._kept.pop(key).nbytes

    def bytes_of(self, adapter: Adapter) -> int:
        """Any thread."""
        kept = self._kept.get(self.key_of(adapter.artifact))
        return 0 if kept is None else kept.nbytes


class Prefixes:
    """What rows copy at admission instead of reading it."""

    def __init__(self, store: PrefixStore, *, min_tokens: int) -> None:
        """`min_tokens`: the shortest beginning of a prompt that is kept."""
        self.store = store
        self.beginnings = Beginnings(lambda key: self._key(key) in store, min_tokens=min_tokens)

    def enter(self, row: Row, runner: Runner) -> int:
        """Writes what the row's slot begins with. Returns how many tokens of its prompt are among it."""
        # A head pools over the states of all tokens, so that they all have to be read.
        found = Found() if row.pool is not None else self.beginnings.look(_flow(row), row.request.prompt_ids)
        row.n_to_keep = found.n_to_keep
        if found.key is not None:
            kept = self.store.get(self._key(found.key))
            runner.write_prefix(row.slot, kept[:, :, :, : row.prefix_tokens + found.n_tokens])
        elif row.prefix_tokens:
            self.store.write(row.adapter, row.slot, runner)
        return found.n_tokens

    def keep(self, row: Row, runner: Runner) -> None:
        """Takes a copy of the prompt's beginning out of the row's slot, once, when it is worth it and has been read."""
        if not row.n_to_keep or row.position < row.prefix_tokens + row.n_to_keep:
            return
        n_tokens, row.n_to_keep = row.n_to_keep, 0
        columns = runner.read_prefix(row.slot, row.prefix_tokens + n_tokens)
        if not bool(torch.isfinite(columns).all()):
            return
        key, superfluous = self.beginnings.keep(_flow(row), row.request.prompt_ids[:n_tokens])
        for old in superfluous:
            self.store.drop(self._key(old))
        if key is not None:
            self.store.put(self._key(key), columns)

    def _key(self, key: Key) -> PrefixKey:
        team_id, artifact, digest = key
        return self.store.key_of(artifact, f"{team_id} {digest}")


def _flow(row: Row) -> Flow:
    return row.request.team_id, row.request.artifact or "", row.request.label
