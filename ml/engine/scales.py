"""Learned scales on one side of a linear layer, by slot (IA3: Liu et al. 2022, arXiv 2205.05638, section 3.3).

Legend: S slots, R rows of one forward, Q tokens a row, F features. Kept like the low-rank changes: `[S, F]`, written
when a row enters a slot. Rows without scales have ones, which change nothing to the bit; when no row of a forward has
scales the op is skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Scale:
    """One layer's part of an adapter."""

    factors: Tensor
    """[F]"""
    side: Literal["inputs", "outputs"]


class Scales:
    """What one side of a linear layer is multiplied by, by slot."""

    def __init__(self, n_slots: int, n_features: int, like: Tensor) -> None:
        self._shape = (n_slots, n_features)
        self._like = like
        self._factors: Tensor | None = None
        self.slots: set[int] = set()
        self._active: Tensor | None = None

    def set(self, slot: int, factors: Tensor | None) -> None:
        if factors is None:
            if slot in self.slots and self._factors is not None:
                self._factors[slot] = 1
                self.slots.discard(slot)
            return
        if self._factors is None:
            self._factors = self._like.new_ones(self._shape)
        self._factors[slot] = factors
        self.slots.add(slot)

    def select(self, first: int, n_rows: int) -> Tensor | None:
        """What forwards over slots `first` … `first + n_rows - 1` need: [R, 1, F]; None where no row has scales."""
        is_needed = any(first <= slot < first + n_rows for slot in self.slots)
        return self._factors[first : first + n_rows, None] if is_needed and self._factors is not None else None

    def activate(self, factors: Tensor | None) -> None:
        """The next forwards go by these; None: nothing is multiplied."""
        self._active = factors

    def times(self, x: Tensor) -> Tensor:
        """x [R, Q, F] times each row's factors."""
        return x if self._active is None else x * self._active
