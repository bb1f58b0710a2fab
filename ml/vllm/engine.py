"""The loop of an engine whose model is in a vLLM server: the interface of ml.engine.serving, answers over HTTP.

Each step: cancel and expire → load and admit → take in what the server has sent. A row in a slot has a thread that
reads its stream; rows, events and the text belong to the thread that calls `step`. Guarantees: the same events as from
the engine that holds the model; stop strings and stop tokens are found here, so that they mean the same; a row that
ends, whatever the reason, has its connection closed, and vLLM stops writing; one row's failure is its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ml.engine.adapters import Adapter
from ml.engine.answers import accept, ended, resume
from ml.engine.desk import Desk, out_of_time
from ml.engine.grammar import Grammars
from ml.engine.sampler import Choice
from ml.engine.scheduler import Scheduler
from ml.engine.snapshot import Meter, Snapshot, row_of, sums_by_form, totals_of
from ml.engine.stores import AdapterStore
from ml.engine.text import TextStream
from ml.engine.types import Event, Failed, FinishReason, Request, Row, Started
from ml.errors import BusyError, ColdframeError, SpecError, UnavailableError
from ml.threads import helper_threads
from ml.vllm.adapters import Loader
from ml.vllm.base import RemoteBase
from ml.vllm.body import body_of, reason_to_stay
from ml.vllm.client import Call
from ml.vllm.pieces import Piece
from ml.vllm.server import Server
from ml.vllm.soft import SoftPrompts

logger = logging.getLogger(__name__)
News = Piece | ColdframeError | None
"""A part of an answer, why there will be none, or its end."""


class VllmEngine(Desk):
    def __init__(
        self,
        base: RemoteBase,
        server: Server,
        *,
        artifact_folder: Callable[[str], Path],
        n_slots: int = 256,
        length: int = 8192,
        queue_limit: int = 1000,
        adapter_bytes: int = 1 << 30,
        executor: Executor | None = None,
    ) -> None:
        """`server` was checked. `n_slots`: answers under way at once. `length`: positions of a row, at most the
        server's. `adapter_bytes`: of trained vectors kept here."""
        super().__init__()
        self.backbone = base
        self.meter = Meter()
        self.soft = SoftPrompts(base.folder)
        self.scheduler = Scheduler(
            n_slots=n_slots, length=min(length, server.length), prefill_tokens=length, queue_limit=queue_limit
        )
        self.adapters = AdapterStore(
            Loader(base, server, self.soft), artifact_folder, budget_bytes=adapter_bytes,
            executor=executor or helper_threads(2, "adapters"),
        )  # fmt: skip
        self._grammars = Grammars(base.tokenizer, set(base.stop_ids))
        self._server = server
        self._calls: dict[str, Call] = {}
        self._news: SimpleQueue[tuple[Row, News]] = SimpleQueue()
        self._n_steps = 0
        self._snapshot = self._taken()

    # Any thread

    def submit(self, request: Request) -> None:
        """Raises BusyError, ContextTooLongError, SpecError or StaysLocalError; whatever goes wrong later is a Failed
        event."""
        if not request.prompt_ids:
            raise SpecError("The prompt is empty.", field="messages")
        if reason := reason_to_stay(request, self._known(request.artifact)):
            raise reason
        if self._inbox.qsize() + len(self.scheduler.queue) >= self.scheduler.queue_limit:
            raise BusyError("The engine's queue is full.", hint="Try again in some seconds.")
        if request.schema:
            self._grammars.guide(request.schema)  # refused here, in the words that people know, or not at all
        row = Row(request=request, stream=TextStream(self.backbone.tokenizer, request.sampling.stop))
        self.scheduler.check_fits(row)
        self._receive(row)

    def _known(self, artifact: str | None) -> Adapter | None:
        """The adapter, if it is loaded; preparing a request has mostly done that."""
        future = self.adapters.fetch(artifact) if artifact is not None else None
        return future.result() if future is not None and future.done() and not future.exception() else None

    def pin(self, artifacts: Sequence[str]) -> None:
        """These are brought to the server, or their vectors here, before they are asked for; the vectors leave last."""
        self.adapters.pin(artifacts)

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def resident(self) -> list[dict[str, Any]]:
        """Adapters that this engine or the server has: artifact, form, bytes held here, pinned."""
        return [
            {"artifact": a.artifact, "form": a.form, "bytes": a.n_bytes, "pinned": self.adapters.is_pinned(a.artifact)}
            for a in self.adapters.resident()
        ]

    def resident_by_form(self) -> dict[str, dict[str, int]]:
        """n and bytes of all of them."""
        return sums_by_form((a.form, a.n_bytes) for a in self.adapters.resident(limit=0))

    def wait(self, timeout_s: float) -> None:
        """Returns when there may be work, at the latest after `timeout_s`."""
        self._wake.wait(timeout_s)
        self._wake.clear()

    # The model's thread

    def step(self) -> list[Event]:
        """Takes in what has come and returns what happened, in order."""
        started = time.monotonic()
        self._events = []
        for row in self._arrived():
            self._take(row)
        for row in self._cancelled():
            self._finish(row, "cancelled")
        for row in self._expired():
            self._fail(row, out_of_time(row))
        self.scheduler.stage(self._load)
        self._settle(self.scheduler.staged)
        for row in self.scheduler.admit(lambda row: row.state == "ready"):
            self._begin(row)
        n_tokens = self._take_news()
        if n_tokens:
            self.meter.add(n_tokens=n_tokens, n_decoded=0, seconds=time.monotonic() - started)
        self._snapshot = self._taken()
        return self._events

    def _take(self, row: Row) -> None:
        try:
            self.scheduler.submit(row)
        except ColdframeError as error:
            self._fail(row, error)

    def _equip(self, row: Row) -> None:
        row.state = "ready"
        if row.loading is not None:
            row.adapter = row.loading.result()
            row.prefix_tokens = row.adapter.prefix_tokens
            self.scheduler.check_fits(row)
            if stays := reason_to_stay(row.request, row.adapter):
                raise stays
        if reason := resume(row):
            self._finish(row, reason)

    def _begin(self, row: Row) -> None:
        """The row has a slot: its stream is opened."""
        row.entered = time.monotonic()
        row.position = row.prefix_tokens + len(row.request.prompt_ids)
        n_prompt = len(row.request.prompt_ids)
        self._emit(Started(id=row.request.id, prompt_tokens=n_prompt, prefix_tokens=row.prefix_tokens))
        self._calls[row.request.id] = call = Call()
        threading.Thread(target=self._read, args=(row, call), name="vllm-answer", daemon=True).start()

    def _read(self, row: Row, call: Call) -> None:
        """In the row's own thread, which touches nothing of the row but what never changes."""
        last: News = None
        try:
            body = body_of(row, stop_ids=self.backbone.stop_ids, soft=self.soft)
            is_lora = row.adapter is not None and row.adapter.form == "lora_delta"
            lora, folder = (row.adapter.artifact, str(row.adapter.folder)) if is_lora else ("", "")
            for piece in self._server.answer(body, call, lora=lora, folder=folder):
                self._tell(row, piece)
        except ColdframeError as error:
            last = error
        except Exception as error:
            logger.exception("row %s failed", row.request.id)
            last = ColdframeError(f"The row failed: {type(error).__name__}: {error}.", code="row_failed", status=500)
        self._tell(row, last)

    def _tell(self, row: Row, news: News) -> None:
        self._news.put((row, news))
        self._wake.set()

    def _take_news(self) -> int:
        """What was there when the step began; what comes meanwhile is the next step's. Returns how many tokens."""
        n_tokens = 0
        for _ in range(self._news.qsize()):
            row, news = self._news.get()
            if row.state == "over":
                continue
            if isinstance(news, Piece):
                self._n_steps += bool(news.ids) and not n_tokens
                n_tokens += len(news.ids)
                self._apply(row, news)
            elif news is None:
                self._fail(row, UnavailableError("vLLM ended the answer without saying why.", hint="Ask again."))
            else:
                self._fail(row, news)
        return n_tokens

    def _apply(self, row: Row, piece: Piece) -> None:
        for at, token_id in enumerate(piece.ids):
            if token_id in self.backbone.stop_ids:
                return self._finish(row, "stop")
            if row.state == "prefill":
                self.scheduler.table.start_decoding(row)
            logprobs = piece.logprobs[at][: 1 + row.request.sampling.n_logprobs] if piece.logprobs else None
            event, reason = accept(
                row, Choice(token_id, logprobs), step=self._n_steps, n_live=len(self.scheduler.live),
                tokenizer=self.backbone.tokenizer,
            )  # fmt: skip
            row.position += 1
            self._emit(event)
            if reason:
                return self._finish(row, reason)
        if piece.finish_reason in ("stop", "length"):
            self._finish(row, "stop" if piece.finish_reason == "stop" else "length")
        elif piece.finish_reason:
            self._fail(row, UnavailableError(f"vLLM ended the answer: {piece.finish_reason:.60}.", hint="Ask again."))
        return None

    def _finish(self, row: Row, reason: FinishReason) -> None:
        done = ended(row, reason)
        self._leave(row)
        self._emit(done)

    def _fail(self, row: Row, error: ColdframeError) -> None:
        self._leave(row)
        self._emit(Failed(id=row.request.id, error=error))

    def _leave(self, row: Row) -> None:
        if (call := self._calls.pop(row.request.id, None)) is not None:
            call.close()
        self.scheduler.drop(row)
        row.state = "over"

    def _taken(self) -> Snapshot:
        scheduler = self.scheduler
        return Snapshot(
            slots=scheduler.table.n_slots, length=scheduler.length, step=self._n_steps,
            queue=len(scheduler.queue) + len(scheduler.staged), rows=[row_of(row) for row in scheduler.live],
            shared_prefixes={},
            totals=totals_of(self.meter, self._n_steps), decoding={"dtype": "", "attention": "vllm", "graphs": None},
        )  # fmt: skip
