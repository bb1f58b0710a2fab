"""The loop: one thread owns the models and calls `step`; any thread submits and cancels.

Each step: cancel and expire → load and admit → one pass of one batch. The main batch shares the frozen model; an
adapter that changes the model itself has a batch of its own (ml.engine.own), and batches with live rows take turns.
Guarantees: every row's answer is the one it would get alone; what loads delays only the rows that need it; a cancelled
row's slot is free after the step under way. What Redis, retrieval and chat need is not here: see jobs/engine_main.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ml.backbone import Backbone
from ml.data.chat import stop_ids
from ml.engine.adapters import load_adapter
from ml.engine.answers import resume
from ml.engine.batch import Batch
from ml.engine.beginnings import MIN_TOKENS
from ml.engine.desk import Desk, out_of_time
from ml.engine.grammar import Grammars
from ml.engine.labels import prepare
from ml.engine.own import OwnModels
from ml.engine.prefixes import Prefixes, PrefixStore
from ml.engine.runner import Runner
from ml.engine.scheduler import Scheduler
from ml.engine.snapshot import Meter, Snapshot, resident_by_form, resident_of, take_snapshot
from ml.engine.stores import AdapterStore
from ml.engine.text import TextStream
from ml.engine.types import Event, Request, Row
from ml.errors import BusyError, ColdframeError, SpecError
from ml.threads import helper_threads

OWN_SLOTS = 4
"""Slots of a model of its own, at most."""

logger = logging.getLogger(__name__)


class Engine(Desk):
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
        own_bytes: int = 4 << 30,
        min_shared_tokens: int = MIN_TOKENS,
        is_packed: bool = True,
        is_fixed: bool | None = None,
        is_traced: bool = True,
        executor: Executor | None = None,
    ) -> None:
        """`length`: positions of a slot, at most the model's. `prefill_tokens`: prompt tokens read in one step.
        `own_bytes`: of all models of their own. `min_shared_tokens`: the shortest beginning of prompts that is kept.
        `is_packed`: weights are kept once more in the order that the CPU reads fastest (ml.engine.packed). `is_fixed`:
        decode in steps of fixed shape (ml.engine.steps); None: on a GPU only. `is_traced`: on a CPU, forwards that come
        often are replayed without Python (ml.engine.traces)."""
        super().__init__()
        self.backbone = backbone
        self._limits = {"prefill_tokens": prefill_tokens, "queue_limit": queue_limit}
        self.adapters = AdapterStore(
            partial(load_adapter, backbone=backbone), artifact_folder, budget_bytes=adapter_bytes,
            executor=executor or helper_threads(2, "adapters"),
        )  # fmt: skip
        self.prefixes = Prefixes(PrefixStore(backbone, budget_bytes=prefix_bytes), min_tokens=min_shared_tokens)
        self.stop_ids = stop_ids(backbone.tokenizer, getattr(backbone.model, "generation_config", None))
        self.grammars = Grammars(backbone.tokenizer, self.stop_ids)
        runner = Runner(
            backbone, n_slots=n_slots, length=length, is_packed=is_packed, is_fixed=is_fixed, is_traced=is_traced
        )
        self.main = self._batch(backbone, runner)
        self.own = OwnModels(
            backbone, n_slots=min(n_slots, OWN_SLOTS), length=self.runner.length, budget_bytes=own_bytes,
            executor=executor or helper_threads(1, "models"),
            make_batch=self._batch, fail=self.main.fail, wake=lambda: self._wake.set(),
        )  # fmt: skip
        self.n_steps = 0
        self._stepped: Batch | None = None
        self.meter = Meter()
        self._snapshot = take_snapshot(self)

    def _batch(self, backbone: Backbone, runner: Runner) -> Batch:
        scheduler = Scheduler(n_slots=runner.cache.n_slots, length=runner.length, **self._limits)
        return Batch(
            backbone, runner=runner, scheduler=scheduler, prefixes=self.prefixes, stop_ids=self.stop_ids,
            emit=self._emit,
        )  # fmt: skip

    @property
    def runner(self) -> Runner:
        """Of the main batch."""
        return self.main.runner

    @property
    def scheduler(self) -> Scheduler:
        """Of the main batch; every request passes its queue."""
        return self.main.scheduler

    @property
    def batches(self) -> list[Batch]:
        return [self.main, *self.own.batches]

    # Any thread

    def submit(self, request: Request) -> None:
        """Raises BusyError, ContextTooLongError or SpecError; whatever goes wrong later is a Failed event."""
        if not request.prompt_ids:
            raise SpecError("The prompt is empty.", field="messages")
        n_waiting = self._inbox.qsize() + len(self.scheduler.queue) + self.own.n_waiting
        if n_waiting >= self.scheduler.queue_limit:
            raise BusyError("The engine's queue is full.", hint="Try again in some seconds.")
        row = Row(
            request=request, stream=TextStream(self.backbone.tokenizer, request.sampling.stop),
            guide=self.grammars.guide(request.schema) if request.schema else None,
        )  # fmt: skip
        self.scheduler.check_fits(row)
        self._receive(row)

    def pin(self, artifacts: Sequence[str]) -> None:
        """These tasks leave memory last, and are loaded one after another before they are asked for, as long as they
        fit. Returns when that is done; no row waits for it. What is left out is pinned no longer."""
        self.prefixes.store.pinned = self.own.pinned = frozenset(artifacts)
        self.adapters.pin(artifacts)

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def resident(self) -> list[dict[str, Any]]:
        """Adapters in memory that were used last: artifact, form, bytes, pinned."""
        return resident_of(self)

    def resident_by_form(self) -> dict[str, dict[str, int]]:
        """n and bytes of all of them."""
        return resident_by_form(self)

    def wait(self, timeout_s: float) -> None:
        """Returns when there may be work, at the latest after `timeout_s`."""
        if any(batch.scheduler.live for batch in self.batches):
            return
        self._wake.wait(timeout_s)
        self._wake.clear()

    # The model's thread

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Does one step and returns what happened, in order."""
        started = time.monotonic()
        self._events = []
        for row in self._arrived():
            self.main.take(row)
        for row in self._cancelled():
            (row.batch or self.main).finish(row, "cancelled")
        for row in self._expired():
            (row.batch or self.main).fail(row, out_of_time(row))
        self.scheduler.stage(self._load)
        self._settle(self.scheduler.staged)
        self.main.admit()
        self.own.advance()
        batch = self._next_batch()
        if batch is not None:
            self.n_steps += 1
            n_tokens, n_decoded = batch.step(self.n_steps)
            self.meter.add(n_tokens=n_tokens, n_decoded=n_decoded, seconds=time.monotonic() - started)
        self._snapshot = take_snapshot(self)
        return self._events

    def _next_batch(self) -> Batch | None:
        """The one after the last that stepped, of those with live rows."""
        batches = self.batches
        at = batches.index(self._stepped) + 1 if self._stepped in batches else 0
        live = [batch for batch in (*batches[at:], *batches[:at]) if batch.scheduler.live]
        self._stepped = live[0] if live else None
        return self._stepped

    def _fail(self, row: Row, error: ColdframeError) -> None:
        self.main.fail(row, error)

    def _equip(self, row: Row) -> None:
        """What needs a model of its own goes there."""
        row.state = "ready"
        if row.loading is not None:
            row.adapter = row.loading.result()
            row.prefix_tokens = row.adapter.prefix_tokens
            if row.adapter.head is not None:
                prepare(row)
            self.scheduler.check_fits(row)
        if row.pool is None and (reason := resume(row)):
            self.main.finish(row, reason)
        elif row.adapter is not None and row.adapter.folder is not None:
            self.scheduler.staged.remove(row)
            self.own.take(row)
