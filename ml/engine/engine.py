"""The loop: one thread owns the model and calls `step`; any thread submits and cancels.

Each step: cancel and expire → load and admit → read a chunk of prompts under a token budget → one more token for every
decoding row → finish. Guarantees: every row's answer is the one it would get alone; a row that fails (its adapter, its
values, its shape) ends with a Failed event that names the cause and the others go on; a cancelled row's slot is free
after the step under way. What Redis, retrieval and chat need is not here: see jobs/engine_main.py.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch

from ml.backbone import Backbone
from ml.data.chat import stop_ids
from ml.engine.answers import accept, ended, resume
from ml.engine.choices import MOST_NODES, advance
from ml.engine.runner import Runner
from ml.engine.sampler import Choice, sample
from ml.engine.scheduler import Chunk, Scheduler
from ml.engine.snapshot import Meter, Snapshot, resident_of, take_snapshot
from ml.engine.stores import AdapterStore, PrefixStore
from ml.engine.text import TextStream
from ml.engine.types import Done, Event, Failed, FinishReason, Request, Row, Started
from ml.errors import BusyError, ColdframeError, ModelError, SpecError, UnavailableError

logger = logging.getLogger(__name__)
Results = list[tuple[Row, Choice]]


class Engine:
    def __init__(
        self,
        backbone: Backbone,
        *,
        artifact_folder: Callable[[str], Path],
        n_slots: int = 16,
        length: int = 1024,
        prefill_tokens: int = 128,
        queue_limit: int = 1000,
        adapter_bytes: int = 2 << 30,
        prefix_bytes: int = 1 << 30,
        executor: Executor | None = None,
    ) -> None:
        """`length`: positions of a slot, at most the model's. `prefill_tokens`: prompt tokens read in one step."""
        self.backbone = backbone
        self.runner = Runner(backbone, n_slots=n_slots, length=length)
        self.scheduler = Scheduler(
            n_slots=n_slots, length=self.runner.length, prefill_tokens=prefill_tokens, queue_limit=queue_limit
        )
        executor = executor or ThreadPoolExecutor(2, thread_name_prefix="adapters")
        self.adapters = AdapterStore(backbone, artifact_folder, budget_bytes=adapter_bytes, executor=executor)
        self.prefixes = PrefixStore(backbone, budget_bytes=prefix_bytes)
        self.stop_ids = stop_ids(backbone.tokenizer, getattr(backbone.model, "generation_config", None))
        self.n_steps = 0
        self.meter = Meter()
        self._inbox: SimpleQueue[Row] = SimpleQueue()
        self._cancels: SimpleQueue[str] = SimpleQueue()
        self._rows: dict[str, Row] = {}
        self._wake = threading.Event()
        self._events: list[Event] = []
        self._snapshot = take_snapshot(self)

    # Any thread

    def submit(self, request: Request) -> None:
        """Raises BusyError, ContextTooLongError or SpecError; whatever goes wrong later is a Failed event."""
        if not request.prompt_ids:
            raise SpecError("The prompt is empty.", field="messages")
        if self._inbox.qsize() + len(self.scheduler.queue) >= self.scheduler.queue_limit:
            raise BusyError("The engine's queue is full.", hint="Try again in some seconds.")
        row = Row(request=request, stream=TextStream(self.backbone.tokenizer, request.sampling.stop))
        self.scheduler.check_fits(row)
        self._inbox.put(row)
        self._wake.set()

    def cancel(self, request_id: str) -> None:
        """The row ends with Done(finish_reason="cancelled") in the next step; an unknown id does nothing."""
        self._cancels.put(request_id)
        self._wake.set()

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def resident(self) -> list[dict[str, Any]]:
        """Adapters in memory: artifact, form, bytes."""
        return resident_of(self)

    @property
    def is_idle(self) -> bool:
        """Nothing to do and nothing waiting."""
        return not self._rows and self._inbox.empty()

    def wait(self, timeout_s: float) -> None:
        """Returns when there may be work, at the latest after `timeout_s`."""
        if self.scheduler.live:
            return
        self._wake.wait(timeout_s)
        self._wake.clear()

    # The model's thread

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Does one step and returns what happened, in order."""
        started = time.monotonic()
        self._events = []
        self._take_inbox()
        self._take_cancels()
        self._expire()
        self.scheduler.stage(self._load)
        for row in self.scheduler.admit(self._is_ready):
            self._enter(row)
        if self.scheduler.live:
            self.n_steps += 1
            n_live, decoding = len(self.scheduler.live), self.scheduler.table.decoding
            self._score(self.scheduler.scoring_batch(4 * MOST_NODES))
            results = self._prefill(self.scheduler.prefill_batch()) + self._decode(decoding)
            for row, choice in results:
                self._apply(row, choice, n_live)
            self.meter.add(n_tokens=len(results), n_decoded=len(decoding), seconds=time.monotonic() - started)
        self._snapshot = take_snapshot(self)
        return self._events

    def _take_inbox(self) -> None:
        while True:
            try:
                row = self._inbox.get_nowait()
            except Empty:
                return
            if row.request.id in self._rows:
                logger.warning("request %s is under way already", row.request.id)
                continue
            self._rows[row.request.id] = row
            if reason := resume(row):
                self._finish(row, reason)
                continue
            try:
                self.scheduler.submit(row)
            except ColdframeError as error:
                self._fail(row, error)

    def _take_cancels(self) -> None:
        while True:
            try:
                row = self._rows.get(self._cancels.get_nowait())
            except Empty:
                return
            if row is not None:
                self._finish(row, "cancelled")

    def _expire(self) -> None:
        now = time.monotonic()
        for row in [row for row in self._rows.values() if row.request.deadline < now]:
            self._fail(
                row,
                UnavailableError(
                    f"The answer was not finished in time; it has {len(row.answer)} tokens.",
                    hint="Ask for a shorter answer, or try again when fewer rows are running.",
                    code="deadline",
                ),
            )

    def _load(self, row: Row) -> None:
        if row.request.artifact is not None:
            row.loading = self.adapters.fetch(row.request.artifact)
            row.loading.add_done_callback(lambda _: self._wake.set())

    def _is_ready(self, row: Row) -> bool:
        if row.loading is None:
            return True
        if not row.loading.done():
            return False
        try:
            row.adapter = row.loading.result()
            row.prefix_tokens = row.adapter.prefix_tokens
            self.scheduler.check_fits(row)
        except ColdframeError as error:
            self._fail(row, error)
        except Exception as error:
            logger.exception("adapter %s could not be loaded", row.request.artifact)
            self._fail(row, UnavailableError(f"Adapter {row.request.artifact} could not be loaded: {error}."))
        return row.request.id in self._rows

    def _enter(self, row: Row) -> None:
        """The row's slot gets its prefix and its LoRA."""
        try:
            if row.prefix_tokens:
                self.runner.lora.idle()
                self.runner.write_prefix(row.slot, self.prefixes.get(row.adapter))
            row.position, row.entered = row.prefix_tokens, time.monotonic()
            self.runner.lora.set(row.slot, row.adapter.deltas if row.adapter else None)
        except Exception as error:
            self._fail_unexpected(row, error)
            return
        self._events.append(
            Started(id=row.request.id, prompt_tokens=len(row.request.prompt_ids), prefix_tokens=row.prefix_tokens)
        )

    def _prefill(self, chunks: Sequence[Chunk]) -> Results:
        rows = [chunk.row for chunk in chunks]
        is_last = [chunk.n == len(chunk.row.unread) for chunk in chunks]
        results = self._forward(rows, [chunk.row.unread[: chunk.n] for chunk in chunks], wants_logits=any(is_last))
        complete = [row for row, whole in zip(rows, is_last, strict=True) if whole and row.slot >= 0]
        for row in complete:
            for copy in self.scheduler.table.start_decoding(row):
                other = self.scheduler.live[copy.source]
                self.runner.move(copy, max(row.position, other.position))
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
                self._finish(row, "stop")

    def _decode(self, rows: Sequence[Row]) -> Results:
        return self._forward(rows, [row.unread for row in rows], wants_logits=True)

    def _forward(self, rows: Sequence[Row], ids: Sequence[Sequence[int]], *, wants_logits: bool) -> Results:
        """Reads ids into the rows' neighbouring slots and chooses their next tokens. When the batch fails as a whole,
        each row is tried alone, so that only the one at fault fails."""
        if not rows:
            return []
        try:
            positions = [row.position for row in rows]
            logits = self.runner.forward(rows[0].slot, ids, positions, wants_logits=wants_logits)
            choices = [Choice(None)] * len(rows) if logits is None else sample(rows, logits)
        except Exception as error:
            if len(rows) == 1:
                self._fail_unexpected(rows[0], error)
                return []
            logger.exception("a batch of %d rows failed; trying them one by one", len(rows))
            return self._forward_alone(rows, ids, wants_logits=wants_logits)
        for row, read in zip(rows, ids, strict=True):
            row.position += len(read)
            row.unread = row.unread[len(read) :]
        return list(zip(rows, choices, strict=True))

    def _forward_alone(self, rows: Sequence[Row], ids: Sequence[Sequence[int]], *, wants_logits: bool) -> Results:
        """From the last slot to the first: a failing row's slot is then filled by one that is done already."""
        pairs = list(zip(rows, ids, strict=True))[::-1]
        return [result for row, read in pairs for result in self._forward([row], [read], wants_logits=wants_logits)]

    def _apply(self, row: Row, choice: Choice, n_live: int) -> None:
        if row.slot < 0:
            return
        if choice.id is None:
            what = f"Adapter {row.request.artifact[:12]}" if row.request.artifact else "The model"
            self._fail(row, ModelError(f"{what} produced values that are not finite.", hint="Train it again."))
        elif choice.id in self.stop_ids:
            self._finish(row, "stop")
        else:
            event, reason = accept(row, choice, step=self.n_steps, n_live=n_live, tokenizer=self.backbone.tokenizer)
            self._events.append(event)
            if reason:
                self._finish(row, reason)

    def _finish(self, row: Row, reason: FinishReason) -> None:
        event: Done = ended(row, reason)
        self._leave(row)
        self._events.append(event)

    def _fail_unexpected(self, row: Row, error: Exception) -> None:
        logger.error("row %s failed", row.request.id, exc_info=error)
        self._fail(
            row, ColdframeError(f"The row failed: {type(error).__name__}: {error}.", code="row_failed", status=500)
        )

    def _fail(self, row: Row, error: ColdframeError) -> None:
        self._leave(row, is_suspect=True)
        self._events.append(Failed(id=row.request.id, error=error))

    def _leave(self, row: Row, *, is_suspect: bool = False) -> None:
        self._rows.pop(row.request.id, None)
        if row.slot >= 0 and (is_suspect or row.state == "prefill"):
            self.runner.clear(row.slot, row.position + max(self.scheduler.prefill_tokens, row.n_scratch))
        slot = row.slot
        for copy in self.scheduler.drop(row):
            self.runner.move(copy, self.scheduler.live[copy.target].position)
        if slot >= 0:
            self.runner.lora.set(len(self.scheduler.live), None)
