"""LoRA matrices in the order of a step's rows, at addresses that stay: a graph can hold what reads them.

Legend: R rows of the step, G groups, r rank, I/O inputs and outputs of a linear layer. When all rows have one adapter
its matrices stand there once and G is 1, so that they are read once; otherwise G is R and row r's are at r, zeros where
it has none. ml.engine.lora gathers rows by adapter instead, by indices whose number depends on the batch; on a GPU its
extra launches cost more than what they save, until ranks are high and many rows share. Guarantees: matrices are copied
only when the rows have changed, those of all layers in one operation; a row without a delta is unchanged to the bit.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence

import torch
from torch import Tensor

from ml.engine.lora import Delta
from ml.engine.scales import Scale
from ml.engine.sites import Changes, SiteBank

_LOWEST_RANK = 8
"""Ranks are rounded up to this and its doubles: each rank that is in use needs graphs of its own."""


class Stack:
    """One layer's matrices."""

    def __init__(self, n_rows: int, rank: int, sizes: tuple[int, int], like: Tensor) -> None:
        self.a = like.new_zeros(n_rows, rank, sizes[0])
        self.b = like.new_zeros(n_rows, rank, sizes[1])
        self._shape = (0, 0)

    def use(self, n_groups: int, rank: int) -> None:
        self._shape = (n_groups, rank)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """y [R, 1, O] plus this layer's delta of x [R, 1, I]."""
        n_groups, rank = self._shape
        low = torch.bmm(x.reshape(n_groups, -1, x.shape[-1]), self.a[:n_groups, :rank].mT)  # [G, R/G, r]
        return torch.baddbmm(y.reshape(n_groups, -1, y.shape[-1]), low, self.b[:n_groups, :rank]).view_as(y)


class Stacks:
    """Those of one model."""

    def __init__(self, bank: SiteBank, n_rows: int, on_move: Callable[[], None]) -> None:
        """`n_rows`: of the largest step. `on_move` is called when matrices stand elsewhere than before."""
        self._bank, self._n_rows, self._on_move = bank, n_rows, on_move
        self._by_name: dict[str, Stack] = {}
        self._rank = 0
        self._held: list[tuple[weakref.ref[object] | None, set[str]]] = [(None, set())] * n_rows
        """By row: one of the changes that it stands for, and the layers that they change."""
        self._of: tuple[int, int, int] | None = None
        self._used: tuple[int, int, frozenset[str]] = (1, 0, frozenset())
        self.forms: Hashable = None
        """What a step with the rows at hand does to layers; equal where the same graph serves."""

    def use(self, n_live: int, n_rows: int) -> Hashable:
        """Brings the matrices of the rows in the first `n_live` slots to their places; gives `forms`."""
        of = (self._bank.version, n_live, n_rows)
        if of != self._of:
            self._of = None  # should the arranging fail, it is done again
            self._arrange([self._bank.rows.get(slot, {}) for slot in range(n_live)], n_rows)
            self._of = of
        return self.forms

    def activate(self) -> None:
        """The next forward goes by what `use` has prepared."""
        n_groups, rank, names = self._used
        self._bank.idle()
        for name in names:
            self._by_name[name].use(n_groups, rank)
            self._bank.by_name[name].adding = self._by_name[name]
        n_rows = self._of[2] if self._of else 0
        for site in self._bank.by_name.values():
            for scales in (site.inputs, site.outputs):
                scales.activate(scales.select(0, n_rows))

    def _arrange(self, rows: Sequence[Changes], n_rows: int) -> None:
        is_one = all(row is rows[0] for row in rows)
        wanted = [rows[0]] if is_one else [*rows, *[{}] * (n_rows - len(rows))]
        deltas = [{name: one for name, one in row.items() if isinstance(one, Delta)} for row in wanted]
        names = frozenset(name for row in deltas for name in row)
        rank = max((len(one.a) for row in deltas for one in row.values()), default=0)
        rank = max(_LOWEST_RANK, 1 << (rank - 1).bit_length()) if rank else 0
        self._grow(names, rank)
        self._write(deltas)
        scales = frozenset((name, one.side) for row in rows for name, one in row.items() if isinstance(one, Scale))
        self._used = (1 if is_one else n_rows, rank, names)
        self.forms = (*self._used, scales)

    def _grow(self, names: frozenset[str], rank: int) -> None:
        """Places for the layers of `names`; all of them anew when the rank is higher than any before."""
        missing = names - self._by_name.keys()
        if rank > self._rank:
            missing |= self._by_name.keys()
            self._rank = rank
            self._by_name.clear()
            self._held = [(None, set())] * self._n_rows
            self._on_move()
        for name in missing:
            site = self._bank.by_name[name]
            self._by_name[name] = Stack(self._n_rows, self._rank, site.sizes, site.like)

    def _write(self, rows: Sequence[Mapping[str, Delta]]) -> None:
        targets: list[Tensor] = []
        sources: list[Tensor] = []
        zeros: list[Tensor] = []
        held_now = list(self._held)
        for r, deltas in enumerate(rows):
            mark = next(iter(deltas.values()), None)
            held, names = self._held[r]
            if (held() if held is not None else None) is mark and deltas.keys() == names:
                continue
            gone = [self._by_name[name] for name in names - deltas.keys()]
            zeros += [tensor[r] for stack in gone for tensor in (stack.a, stack.b)]
            for name, delta in deltas.items():
                stack, rank = self._by_name[name], len(delta.a)
                targets += [stack.a[r, :rank], stack.b[r, :rank]]
                sources += [delta.a, delta.b]
                zeros += [stack.a[r, rank:], stack.b[r, rank:]] if rank < self._rank else []
            held_now[r] = (None if mark is None else weakref.ref(mark), set(deltas))
        if zeros:
            torch._foreach_zero_(zeros)
        if targets:
            torch._foreach_copy_(targets, sources)
        self._held = held_now
