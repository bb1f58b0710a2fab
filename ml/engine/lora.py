"""Low-rank changes of one linear layer, by slot: each row of a batch has the LoRA of its own task, or none (Hu et al.
2021, 2106.09685).

Legend: S slots, R rows of one forward, Q tokens a row, I/O inputs and outputs of a linear layer, r rank. A layer keeps
A `[S, r, I]` and B `[S, r, O]` (scaling folded into B, lower ranks padded with zeros), written when a row enters a
slot, not every step. A forward adds `(x Aᵀ) B` to the rows from the first to the last one that has a delta; rows
between them without one have B = 0, so that their output is unchanged to the bit. Without LoRA rows the op is skipped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Delta:
    """One layer's part of an adapter."""

    a: Tensor
    """[r, I]"""
    b: Tensor
    """[r, O], scaled"""


class LowRank:
    """What one linear layer adds, by slot."""

    def __init__(self, n_slots: int, n_in: int, n_out: int, like: Tensor) -> None:
        self._shape = (n_slots, n_in, n_out)
        self._like = like
        self.a = self.b = like.new_empty(0)
        self.rank = 0
        self.deltas: dict[int, Delta] = {}
        self._is_dirty = [False] * n_slots
        """Whether a slot's B may hold anything but zeros."""
        self._active: tuple[slice, Tensor, Tensor] | None = None

    def set(self, slot: int, delta: Delta | None) -> None:
        if delta is None:
            if self._is_dirty[slot]:
                self.b[slot].zero_()
                self._is_dirty[slot] = False
            self.deltas.pop(slot, None)
            return
        rank = delta.a.shape[0]
        self._grow(rank)
        self.a[slot, :rank] = delta.a
        self.b[slot, :rank] = delta.b
        self.b[slot, rank:] = 0
        self._is_dirty[slot] = True
        self.deltas[slot] = delta

    def _grow(self, rank: int) -> None:
        if rank <= self.rank:
            return
        n_slots, n_in, n_out = self._shape
        a, b = self._like.new_zeros(n_slots, rank, n_in), self._like.new_zeros(n_slots, rank, n_out)
        if self.rank:
            a[:, : self.rank], b[:, : self.rank] = self.a, self.b
        self.a, self.b, self.rank = a, b, rank

    def use(self, first: int, n_rows: int) -> None:
        """Prepares the forwards over slots `first` … `first + n_rows - 1`."""
        slots = [slot for slot in self.deltas if first <= slot < first + n_rows]
        if not slots:
            self._active = None
            return
        low, high = min(slots), max(slots) + 1
        rank = max(self.deltas[slot].a.shape[0] for slot in slots)
        rows = slice(low - first, high - first)
        if len(slots) == high - low and len({id(self.deltas[slot]) for slot in slots}) == 1:
            self._active = rows, self.a[low, :rank].t(), self.b[low, :rank]  # [I, r], [r, O]: one matmul for all rows
        else:
            self._active = rows, self.a[low:high, :rank], self.b[low:high, :rank]

    def idle(self) -> None:
        self._active = None

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """y [R, Q, O] plus this layer's delta of x [R, Q, I]."""
        if self._active is None:
            return y
        rows, a, b = self._active
        part = y[rows]
        if a.dim() == 2:
            part += (x[rows] @ a) @ b
        else:
            part += torch.bmm(torch.bmm(a, x[rows].mT).mT, b)  # A xᵀ is read in order, x Aᵀ is not: a third faster
        return y
