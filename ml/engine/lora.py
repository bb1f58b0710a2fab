"""Low-rank deltas per slot: each row of a batch has the LoRA of its own task, or none (Hu et al. 2021, 2106.09685).

Legend: S slots, R rows of one forward, Q tokens a row, I/O inputs and outputs of a linear layer, r rank. A layer that
some adapter changes becomes a *site*: it keeps A `[S, r, I]` and B `[S, r, O]` (scaling folded into B, lower ranks
padded with zeros), written when a row enters a slot, not every step. A forward adds `(x Aᵀ) B` to the rows from the
first to the last one that has a delta; rows between them without one have B = 0, so that their output is unchanged to
the bit. The model's modules keep their names and weights; without LoRA rows the op is skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ml.engine.slots import Copy


@dataclass(frozen=True, eq=False)
class Delta:
    """One layer's part of an adapter."""

    a: Tensor
    """[r, I]"""
    b: Tensor
    """[r, O], scaled"""


Deltas = Mapping[str, Delta]
"""By module name, as in model.named_modules()."""


class Site:
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
            self._active = rows, self.a[low:high, :rank].transpose(1, 2), self.b[low:high, :rank]

    def idle(self) -> None:
        self._active = None

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """y [R, Q, O] plus this site's delta of x [R, Q, I]."""
        if self._active is None:
            return y
        rows, a, b = self._active
        if a.dim() == 2:
            part = y[rows]
            y[rows] = part + (x[rows] @ a) @ b
        else:
            y[rows].baddbmm_(torch.bmm(x[rows], a), b)
        return y


@cache
def _with_site(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass of a linear layer's class that adds its site's delta. Weights, names and state_dict stay."""

    class WithSite(kind):  # type: ignore[valid-type, misc]
        def forward(self, x: Tensor) -> Tensor:
            return self.coldframe_site.add(x, super().forward(x))

    WithSite.__name__ = WithSite.__qualname__ = f"{kind.__name__}WithSite"
    return WithSite


def sizes_of(module: nn.Module) -> tuple[int, int] | None:
    """(inputs, outputs) of a linear layer, Conv1D of transformers included; None for other modules."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if type(module).__name__.startswith("Conv1D"):
        return int(module.nx), int(module.nf)  # type: ignore[arg-type]
    return None


class LoraBank:
    """The sites of one model."""

    def __init__(self, model: Any, n_slots: int) -> None:
        self._model = model
        self._n_slots = n_slots
        self.sites: dict[str, Site] = {}
        self._rows: dict[int, Deltas] = {}
        self._used: tuple[int, int] | None = (0, 0)

    def _site(self, name: str) -> Site:
        if name not in self.sites:
            module = self._model.get_submodule(name)
            sizes = sizes_of(module)
            if sizes is None:
                raise TypeError(f"{name} is a {type(module).__name__}, not a linear layer.")
            self.sites[name] = Site(self._n_slots, *sizes, like=next(self._model.parameters()))
            object.__setattr__(module, "coldframe_site", self.sites[name])
            module.__class__ = _with_site(type(module))  # type: ignore[arg-type]
        return self.sites[name]

    def set(self, slot: int, deltas: Deltas | None) -> None:
        """Puts an adapter's deltas into a slot; None takes out what is there."""
        had, wanted = self._rows.pop(slot, {}), deltas or {}
        for name in had:
            if name not in wanted:
                self.sites[name].set(slot, None)
        for name, delta in wanted.items():
            self._site(name).set(slot, delta)
        if wanted:
            self._rows[slot] = wanted
        if had or wanted:
            self._used = None

    def copy(self, copy: Copy) -> None:
        source, target = self._rows.get(copy.source), self._rows.get(copy.target)
        self.set(copy.target, source)
        if copy.swap:
            self.set(copy.source, target)

    def use(self, first: int, n_rows: int) -> None:
        if self._used == (first, n_rows):
            return
        for site in self.sites.values():
            site.use(first, n_rows)
        self._used = (first, n_rows)

    def idle(self) -> None:
        """The next forward is the plain model's, e.g. for computing a prefix."""
        for site in self.sites.values():
            site.idle()
        self._used = None

    def remove(self) -> None:
        """Gives the model's layers their own classes back."""
        for name in self.sites:
            module = self._model.get_submodule(name)
            module.__class__ = type(module).__mro__[1]
            del module.coldframe_site
        self.sites.clear()
        self._rows.clear()
