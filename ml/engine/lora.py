"""Low-rank changes of one linear layer: each row of a batch has the LoRA of its own task, or none (Hu et al. 2021,
2106.09685).

Legend: S slots, R rows of one forward, Q tokens a row, I/O inputs and outputs of a linear layer, r rank; E entries, G
entries of one forward, M rows of the entry that has most. A layer keeps A `[E, r, I]` and B `[E, r, O]` (scaling folded
into B, lower ranks padded with zeros), one entry for each adapter in use, written when its first row enters. So rows of
one task read its matrices once together, and a row that moves to another slot moves nothing. A forward adds `(x Aᵀ) B`
to the rows that have a delta; others are unchanged to the bit. Without LoRA rows the op is skipped.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
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


@dataclass(frozen=True, eq=False)
class Plan:
    """Which rows of a forward go with which entries: the same for all layers that one adapter changes."""

    entries: slice
    tensors: tuple[Tensor, ...]
    """None: all rows, in the order of their entries, as many for each. Else
    [G·M] rows by entry, any row standing in where an entry has fewer than M;
    the rows that are meant, where their deltas go;
    and which of the former they are."""


def plan_of(entries: Sequence[int], device: torch.device) -> Plan | None:
    """`entries[r]`: row r's entry, -1 for none."""
    used = [entry for entry in entries if entry >= 0]
    if not used:
        return None
    groups: list[list[int]] = [[] for _ in range(min(used), max(used) + 1)]
    for row, entry in enumerate(entries):
        if entry >= 0:
            groups[entry - min(used)].append(row)
    most = max(len(group) for group in groups)
    padded = [row for group in groups for row in (*group, *[-1] * (most - len(group)))]
    targets = [row for row in padded if row >= 0]
    lists = [max(row, 0) for row in padded], targets, [padded.index(row) for row in targets]
    is_whole = padded == list(range(len(entries)))
    return Plan(
        slice(min(used), max(used) + 1), () if is_whole else tuple(torch.tensor(rows, device=device) for rows in lists)
    )


Active = tuple[tuple[Tensor, ...], Tensor, Tensor]
"""A plan's tensors, A [G, r, I] and B [G, r, O]."""


class LowRank:
    """What one linear layer adds."""

    def __init__(self, n_slots: int, n_in: int, n_out: int, like: Tensor) -> None:
        self._shape = (n_slots, n_in, n_out)
        self._like = like
        self.a = self.b = like.new_empty(0)
        self.rank = 0
        self.entry_of: dict[int, int] = {}
        """By slot, of those that have a delta."""
        self._held: list[weakref.ref[Delta] | None] = [None] * n_slots
        """What each entry was written from; it stays when no slot has it, until another one needs the place."""
        self._ranks = [0] * n_slots
        self._active: Active | None = None

    def set(self, slot: int, delta: Delta | None) -> None:
        self.entry_of.pop(slot, None)
        if delta is None:
            return
        found = (entry for entry, held in enumerate(self._held) if held is not None and held() is delta)
        entry = next(found, -1)
        if entry < 0:
            entry = min(set(range(len(self._held))).difference(self.entry_of.values()))
            self._write(entry, delta)
        self.entry_of[slot] = entry

    def _write(self, entry: int, delta: Delta) -> None:
        rank = delta.a.shape[0]
        self._grow(rank)
        self.a[entry, :rank] = delta.a
        self.b[entry, :rank] = delta.b
        self.a[entry, rank:] = self.b[entry, rank:] = 0
        self._held[entry], self._ranks[entry] = weakref.ref(delta), rank

    def _grow(self, rank: int) -> None:
        if rank <= self.rank:
            return
        n_slots, n_in, n_out = self._shape
        a, b = self._like.new_zeros(n_slots, rank, n_in), self._like.new_zeros(n_slots, rank, n_out)
        if self.rank:
            a[:, : self.rank], b[:, : self.rank] = self.a, self.b
        self.a, self.b, self.rank = a, b, rank

    def select(
        self, first: int, n_rows: int, plan_of: Callable[[tuple[int, ...]], Plan | None]
    ) -> tuple[Plan, Tensor, Tensor] | None:
        """What forwards over slots `first` … `first + n_rows - 1` need: their entries' plan, which `plan_of` gives, and
        these entries' A and B; None where no row has a delta."""
        if not self.entry_of:
            return None
        self._close_gaps()
        entries = tuple(self.entry_of.get(slot, -1) for slot in range(first, first + n_rows))
        plan = plan_of(entries)
        if plan is None:
            return None
        rank = max(self._ranks[entry] for entry in entries if entry >= 0)
        return plan, self.a[plan.entries, :rank], self.b[plan.entries, :rank]

    def activate(self, active: Active | None) -> None:
        """The next forwards go by this; None: nothing is added."""
        self._active = active

    def _close_gaps(self) -> None:
        """What lies between two entries of a forward is read with them: not more of it than half."""
        used = sorted(set(self.entry_of.values()))
        if used[-1] < 2 * len(used):
            return
        for to, entry in enumerate(used):
            if to != entry:
                self.a[to], self.b[to] = self.a[entry], self.b[entry]
                self._held[to], self._ranks[to] = self._held[entry], self._ranks[entry]
                self._held[entry] = None
        self.entry_of = {slot: used.index(entry) for slot, entry in self.entry_of.items()}

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """y [R, Q, O] plus this layer's delta of x [R, Q, I]."""
        if self._active is None:
            return y
        plan, a, b = self._active
        n_groups = a.shape[0]  # not len(a), which a trace would keep as it is
        given = x.index_select(0, plan[0]) if plan else x
        given = given.reshape(n_groups, -1, x.shape[2])  # [G, M·Q, I]
        # A xᵀ is read in the order in which A lies, x Aᵀ is not: a third faster.
        low = torch.bmm(a, given.mT).mT  # [G, M·Q, r]
        if not plan:
            y.view(n_groups, -1, y.shape[2]).baddbmm_(low, b)
            return y
        added = torch.bmm(low, b).view(-1, *y.shape[1:])  # [G·M, Q, O]
        rows, added = plan[1], added.index_select(0, plan[2])
        if y.device.type == "cpu":
            # Where y is a part of a larger product (ml.engine.packed), index_add_ takes three times as long.
            y.index_put_((rows,), added, accumulate=True)
        else:
            y.index_add_(0, rows, added)
        return y
