"""Bytes of tensors alive at any moment, as torch itself makes and drops them.

Guarantees: a storage counts once however many tensors look at it, from the operation that made it until its last
reference is gone; works on the meta device, where storages have a size and no memory, and on real tensors alike.
Limits: what a kernel takes and gives back within one operation is not seen, nor is what the allocator rounds up.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_KIND = torch.Tensor


def storage_bytes(tensors: Iterable[Any]) -> int:
    """Bytes of the distinct storages behind `tensors` (parts of compound tensors are not looked into)."""
    seen = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(seen.values())


class LiveBytes(TorchDispatchMode):
    """While entered, follows every storage that an operation makes. `known` were there before and count as `start`."""

    def __init__(self, known: Iterable[torch.Tensor], *, start: int = 0) -> None:
        super().__init__()
        self.live = self.peak = self.top = start
        self.marks: dict[str, int] = {}
        """The highest `live` of each stretch between two marks, by the name of the mark that opened it."""
        self._open = ""
        self._refs: dict[int, weakref.ref[Any]] = {}
        for tensor in known:
            self._see(tensor, counts=False)

    def mark(self, name: str) -> None:
        """Ends the stretch that is open and opens `name`; a name that came before keeps the higher of the two."""
        if self._open:
            self.marks[self._open] = max(self.top, self.marks.get(self._open, 0))
        self._open, self.top = name, self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, _KIND):
            self._see(out)
        elif isinstance(out, tuple | list):
            for item in out:
                if isinstance(item, _KIND):
                    self._see(item)
                elif isinstance(item, tuple | list):
                    for inner in item:
                        if isinstance(inner, _KIND):
                            self._see(inner)
        return out

    def _see(self, tensor: Any, *, counts: bool = True) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._refs:
            return
        size = storage.nbytes() if counts else 0
        self._refs[key] = weakref.ref(storage, partial(self._gone, key, size))
        self.live += size
        if self.live > self.top:
            self.top = self.live
            if self.live > self.peak:
                self.peak = self.live

    def _gone(self, key: int, size: int, _ref: Any) -> None:
        self._refs.pop(key, None)
        self.live -= size
