"""One model and the rows in its slots. Belongs to the model's thread; ml.engine.engine says whose step it is.

A step: read a chunk of prompts under a token budget, then one more token for every decoding row. Guarantees: every
row's answer is the one it would get alone; a row that fails (its adapter, its values, its shape) ends with a Failed
event that names the cause and the others go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from ml.backbone import Backbone
from ml.engine.answers import accept, ended
from ml.engine.choices import MOST_NODES, advance
from ml.engine.labels import answer
from ml.engine.prefixes import Prefixes
from ml.engine.runner import Runner
from ml.engine.sampler import Choice, sample
from ml.engine.scheduler import Chunk, Scheduler
from ml.engine.types import Event, Failed, FinishReason, Row, Started
from ml.errors import ColdframeError, ModelError

logger = logging.getLogger(__name__)
Results = list[tuple[Row, Choice]]


class Batch:
    def __init__(
        self,
        backbone: Backbone,
        *,
        runner: Runner,
        scheduler: Scheduler,
        prefixes: Prefixes,
        stop_ids: set[int],
        emit: Callable[[Event], None],
    ) -> None:
        """`emit` takes the rows' events, in order."""
        self.backbone = backbone
        self.runner = runner
        self.scheduler = scheduler
        self.stop_ids = stop_ids
        self._prefixes = prefixes
        self._emit = emit
        self._step = 0

    @property
    def is_idle(self) -> bool:
        return not self.scheduler.everybody

    def take(self, row: Row) -> None:
        """Puts the row into the queue; it fails at once when it cannot fit or the queue is full."""
        row.batch = self
        try:
            self.scheduler.submit(row)
        except ColdframeError as error:
            self.fail(row, error)

    def admit(self) -> None:
        """Gives free slots to the staged rows that are ready."""
        for row in self.scheduler.admit(lambda row: row.state == "ready"):
            self._enter(row)

    def step(self, number: int) -> tuple[int, int]:
        """Does the engine's step `number`. Returns how many tokens were chosen and how many rows decoded."""
        self._step = number
        n_live, decoding = len(self.scheduler.live), self.scheduler.table.decoding
        self._score(self.scheduler.scoring_batch(4 * MOST_NODES))
        results = self._prefill(self.scheduler.prefill_batch()) + self._decode(decoding)
        for row, choice in results:
            self._apply(row, choice, n_live)
        return len(results), len(decoding)

    def finish(self, row: Row, reason: FinishReason) -> None:
        done = ended(row, reason)
        self._leave(row)
        self._emit(done)

    def fail(self, row: Row, error: ColdframeError) -> None:
        self._leave(row, is_suspect=True)
        self._emit(Failed(id=row.request.id, error=error))

    def _enter(self, row: Row) -> None:
        """The row's slot gets its prefix and its changes of layers."""
        try:
            n_cached = self._prefixes.enter(row, self.runner)
            row.position, row.entered = row.prefix_tokens + n_cached, time.monotonic()
            row.unread = row.unread[n_cached:]
            self.runner.sites.set(row.slot, row.adapter.changes if row.adapter else None)
        except Exception as error:
            self._fail_unexpected(row, error)
            return
        self._emit(
            Started(
                id=row.request.id,
                prompt_tokens=len(row.request.prompt_ids),
                prefix_tokens=row.prefix_tokens,
                cached_tokens=n_cached,
                model=row.adapter.artifact if row.form == "own_backbone" else "",
            )
        )

    def _prefill(self, chunks: Sequence[Chunk]) -> Results:
        rows = [chunk.row for chunk in chunks]
        is_last = [chunk.n == len(chunk.row.unread) for chunk in chunks]
        wants_logits = any(last and row.pool is None for last, row in zip(is_last, rows, strict=True))
        results = self._forward(rows, [chunk.row.unread[: chunk.n] for chunk in chunks], wants_logits=wants_logits)
        complete = [row for row, whole in zip(rows, is_last, strict=True) if whole and row.slot >= 0]
        for row in complete:
            for copy in self.scheduler.table.start_decoding(row):
                other = self.scheduler.live[copy.source]
                self.runner.move(copy, max(row.n_columns, other.n_columns))
        return [(row, choice) for row, choice in results if row in complete]

    def _score(self, rows: Sequence[Row]) -> None:
        """One forward for what these rows' choices still need. When it fails as a whole, each row is tried alone."""
        try:
            scored = advance(rows, self.runner.score)
        except Exception as error:
            if len(rows) == 1:
                self._fail_unexpected(rows[0], error)
            for row in reversed(rows) if len(rows) > 1 else ():
                self._score([row])
            return
        for row in reversed(scored):
            if not row.request.writes:
                self.finish(row, "stop")

    def _decode(self, rows: Sequence[Row]) -> Results:
        return self._forward(rows, [row.unread for row in rows], wants_logits=True)

    def _forward(self, rows: Sequence[Row], ids: Sequence[Sequence[int]], *, wants_logits: bool) -> Results:
        """Reads ids into the rows' neighbouring slots and chooses their next tokens. When the batch fails as a whole,
        each row is tried alone, so that only the one at fault fails."""
        if not rows:
            return []
        try:
            positions = [row.position for row in rows]
            given = self.runner.forward(rows[0].slot, ids, positions, wants_logits=wants_logits)
            choices = [Choice(None)] * len(rows) if given.logits is None else sample(rows, given.logits)
        except Exception as error:
            if len(rows) == 1:
                self._fail_unexpected(rows[0], error)
                return []
            logger.exception("a batch of %d rows failed; trying them one by one", len(rows))
            return self._forward_alone(rows, ids, wants_logits=wants_logits)
        for row, read, states in zip(rows, ids, given.states, strict=True):
            row.position += len(read)
            row.unread = row.unread[len(read) :]
            if row.pool is not None:
                row.pool.add(states[: len(read)])
            self._prefixes.keep(row, self.runner)
        return list(zip(rows, choices, strict=True))

    def _forward_alone(self, rows: Sequence[Row], ids: Sequence[Sequence[int]], *, wants_logits: bool) -> Results:
        """From the last slot to the first: a failing row's slot is then filled by one that is done already."""
        pairs = list(zip(rows, ids, strict=True))[::-1]
        return [result for row, read in pairs for result in self._forward([row], [read], wants_logits=wants_logits)]

    def _apply(self, row: Row, choice: Choice, n_live: int) -> None:
        if row.slot < 0:
            return
        if row.pool is not None:
            self._classify(row, n_live)
        elif choice.id is None:
            what = f"Adapter {row.request.artifact[:12]}" if row.request.artifact else "The model"
            broken = ModelError(f"{what} produced values that are not finite.", hint="Train it again.")
            self.fail(row, choice.error or broken)
        elif choice.id in self.stop_ids:
            self.finish(row, "stop")
        else:
            self._accept(row, choice, n_live)

    def _accept(self, row: Row, choice: Choice, n_live: int) -> None:
        try:
            event, reason = accept(row, choice, step=self._step, n_live=n_live, tokenizer=self.backbone.tokenizer)
        except ColdframeError as error:
            self.fail(row, error)
            return
        self._emit(event)
        if reason:
            self.finish(row, reason)

    def _classify(self, row: Row, n_live: int) -> None:
        try:
            token, done = answer(row, step=self._step, n_live=n_live, tokenizer=self.backbone.tokenizer)
        except ModelError as error:
            self.fail(row, error)
            return
        self._leave(row)
        for event in (token, done):
            if event is not None:
                self._emit(event)

    def _fail_unexpected(self, row: Row, error: Exception) -> None:
        if isinstance(error, ColdframeError):
            self.fail(row, error)
            return
        logger.error("row %s failed", row.request.id, exc_info=error)
        self.fail(
            row, ColdframeError(f"The row failed: {type(error).__name__}: {error}.", code="row_failed", status=500)
        )

    def _leave(self, row: Row, *, is_suspect: bool = False) -> None:
        if row.slot >= 0 and (is_suspect or row.state == "prefill"):
            self.runner.clear(row.slot, row.position + max(self.scheduler.prefill_tokens, row.n_scratch))
        slot = row.slot
        for copy in self.scheduler.drop(row):
            self.runner.move(copy, self.scheduler.live[copy.target].n_columns)
        row.state = "over"
        if slot >= 0:
            self.runner.sites.set(len(self.scheduler.live), None)
