"""Which row is in which slot. No torch: tested by itself.

Live rows are slots 0 … n-1 without a gap, decoding rows first, then those still reading their prompt, so that each of
the two groups is one view of the cache. Every change returns the copies that the cache must make, in order.
"""

from __future__ import annotations

from dataclasses import dataclass

from ml.engine.types import Row


@dataclass(frozen=True)
class Copy:
    """Slot `source` goes to slot `target`; with `swap`, the other way round as well."""

    source: int
    target: int
    swap: bool = False


class SlotTable:
    def __init__(self, n_slots: int) -> None:
        self.n_slots = n_slots
        self.rows: list[Row] = []
        self.n_decoding = 0

    @property
    def n_free(self) -> int:
        return self.n_slots - len(self.rows)

    @property
    def decoding(self) -> list[Row]:
        return self.rows[: self.n_decoding]

    @property
    def prefilling(self) -> list[Row]:
        return self.rows[self.n_decoding :]

    def add(self, row: Row) -> None:
        row.slot = len(self.rows)
        row.state = "prefill"
        self.rows.append(row)

    def start_decoding(self, row: Row) -> list[Copy]:
        """The row has read its prompt: it becomes the last of the decoding ones."""
        source, target = row.slot, self.n_decoding
        row.state = "decode"
        self.n_decoding += 1
        if source == target:
            return []
        other = self.rows[target]
        self.rows[source], self.rows[target] = other, row
        other.slot, row.slot = source, target
        return [Copy(source, target, swap=True)]

    def remove(self, row: Row) -> list[Copy]:
        """Frees the row's slot; afterwards slot `len(rows)` is the one that is free."""
        copies, hole = [], row.slot
        if hole < self.n_decoding:
            self.n_decoding -= 1
            copies += self._fill(hole, self.n_decoding)
            hole = self.n_decoding
        copies += self._fill(hole, len(self.rows) - 1)
        self.rows.pop()
        row.slot = -1
        return copies

    def _fill(self, hole: int, source: int) -> list[Copy]:
        if hole == source:
            return []
        moved = self.rows[source]
        self.rows[hole] = moved
        moved.slot = hole
        return [Copy(source, hole)]
