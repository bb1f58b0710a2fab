"""Who goes next: queue → staged (adapter being loaded) → slot. No torch: tested by itself, with a fake model.

Guarantees: a row that was admitted is never preempted (its whole length was reserved); the queue is bounded; a row
whose adapter is slow to load delays nobody else; a prefill batch stays under the token budget, so that decoding rows
never wait for a long prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ml.engine.choices import MOST_NODES
from ml.engine.fair import FairQueue
from ml.engine.slots import Copy, SlotTable
from ml.engine.types import Row
from ml.errors import BusyError, ContextTooLongError

STAGED_AHEAD = 4
"""Rows whose adapters are loaded before a slot is free for them."""


@dataclass(frozen=True)
class Chunk:
    """The next `n` ids of a row's prompt."""

    row: Row
    n: int


class Scheduler:
    def __init__(self, *, n_slots: int, length: int, prefill_tokens: int, queue_limit: int) -> None:
        self.length = length
        self.prefill_tokens = prefill_tokens
        self.queue_limit = queue_limit
        self.table = SlotTable(n_slots)
        self.queue: FairQueue[Row] = FairQueue()
        self.staged: list[Row] = []

    def check_fits(self, row: Row) -> None:
        """Raises ContextTooLongError saying how many tokens were given and how many fit."""
        if row.capacity > self.length and row.scoring is not None:
            row.scoring.most_columns = MOST_NODES
            row.n_scratch = row.scoring.n_columns
        if row.capacity <= self.length:
            return
        prompt, longest = len(row.request.prompt_ids), row.request.sampling.max_tokens
        prefix = f", its adapter {row.prefix_tokens}" if row.prefix_tokens else ""
        fits = self.length - row.prefix_tokens - longest
        hint = (
            f"Shorten the prompt to {fits} tokens or ask for a shorter answer."
            if fits > 0
            else f"Ask for an answer of at most {max(self.length - row.prefix_tokens - prompt, 0)} tokens."
        )
        raise ContextTooLongError(
            f"The prompt has {prompt} tokens{prefix} and the answer may have {longest}: {row.capacity} in all, "
            f"and {self.length} fit.",
            hint=hint,
            field="messages",
        )

    def submit(self, row: Row) -> None:
        """Raises BusyError when the queue is full, ContextTooLongError when the row can never fit."""
        if len(self.queue) >= self.queue_limit:
            raise BusyError(
                f"{len(self.queue)} requests are waiting, the most there may be.", hint="Try again in some seconds."
            )
        self.check_fits(row)
        self.queue.push(row.request.team_id, row.request.artifact, row.capacity, row)

    def stage(self, load: Callable[[Row], None]) -> None:
        """Takes rows from the queue, so that as many are loading as there are slots, and a few more."""
        while len(self.queue) and len(self.staged) < self.table.n_free + STAGED_AHEAD:
            row = self.queue.pop()
            row.state = "loading"
            self.staged.append(row)
            load(row)

    def admit(self, ready: Callable[[Row], bool]) -> list[Row]:
        """Gives free slots to the staged rows that are ready, the longest staged first."""
        admitted = []
        for row in list(self.staged):
            if not self.table.n_free:
                break
            if ready(row) and row in self.staged:
                self.staged.remove(row)
                self.table.add(row)
                admitted.append(row)
        return admitted

    def drop(self, row: Row) -> list[Copy]:
        """Takes a row out wherever it is; returns the copies that the cache must make."""
        if row.slot >= 0:
            return self.table.remove(row)
        if row in self.staged:
            self.staged.remove(row)
        else:
            self.queue.remove(row)
        return []

    def prefill_batch(self) -> list[Chunk]:
        """Chunks for neighbouring prefilling rows: padded together they stay under the budget, half of it at least
        real tokens."""
        chunks: list[Chunk] = []
        real = longest = 0
        for row in self.table.prefilling:
            n = min(row.n_readable, self.prefill_tokens)
            if not n:
                if chunks:
                    break
                continue
            padded = max(longest, n) * (len(chunks) + 1)
            if chunks and (padded > self.prefill_tokens or 2 * (real + n) < padded):
                break
            chunks.append(Chunk(row, n))
            real, longest = real + n, max(longest, n)
        return chunks

    def scoring_batch(self, most_nodes: int) -> list[Row]:
        """Neighbouring rows whose prompt is read and whose choices are not all scored: padded together they stay under
        the budget, half of it at least real tokens."""
        rows: list[Row] = []
        real = longest = 0
        for row in self.table.prefilling:
            tree = row.scoring.next_tree() if row.scoring and not row.n_readable else None
            if tree is None:
                if rows:
                    break
                continue
            n = len(tree.ids)
            padded = max(longest, n) * (len(rows) + 1)
            if rows and (padded > most_nodes or 2 * (real + n) < padded):
                break
            rows.append(row)
            real, longest = real + n, max(longest, n)
        return rows

    @property
    def live(self) -> list[Row]:
        return self.table.rows

    @property
    def everybody(self) -> list[Row]:
        return [*self.table.rows, *self.staged, *self.queue]
