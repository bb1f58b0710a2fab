"""Schedules for the engine: who comes when, asks what, gives up when; what must hold after every step and at rest."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st

from ml.data.chat import completion_ids, prompt_ids
from ml.engine.engine import Engine
from ml.engine.types import Done, Event, Failed, Request, Token
from tests.ml.engine.conftest import BROKEN, HEADS, KINDS, LABELS, Outcome, Zoo, request_of

SYSTEM = "You answer questions about lights. Example: no light? Check the breaker."
TEXTS = [
    "Hi", "What colour is the sky?", "My lights went out. What should I do now, and whom do I call?", "A tree.",
    f"{SYSTEM} And the sky?", f"{SYSTEM} And the sea?",
]  # fmt: skip
N_TOKENS = 9
POISON = 1e4
SCHEMA = json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
MODES: dict[str, dict[str, Any]] = {
    "greedy": {}, "sampled": {"temperature": 1.0, "top_p": 0.9, "seed": 7}, "schema": {"schema": SCHEMA},
    "choices": {"choices": LABELS, "writes": False}, "references": {"choices": LABELS},
}  # fmt: skip


class LateExecutor(Executor):
    """Loads one thing whenever `release` is called: slow disks without threads and without waiting."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.append(lambda: self._run(future, lambda: function(*args, **kwargs)))
        return future

    @staticmethod
    def _run(future: Future[Any], work: Callable[[], Any]) -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    def release(self) -> None:
        if self._waiting:
            self._waiting.popleft()()


@dataclass(frozen=True, kw_only=True)
class Arrival:
    kind: str
    mode: str
    text: int
    n_tokens: int
    wait: int = 0
    """Steps between the one before and this one."""
    ends: str = ""
    """`cancel` or `deadline`, `after` steps after it came."""
    after: int = 0
    n_emitted: int = 0
    """Tokens that an earlier engine has sent."""
    team: int = 1


arrivals = st.builds(
    Arrival, kind=st.sampled_from([*KINDS, *HEADS, BROKEN]), mode=st.sampled_from(list(MODES)),
    text=st.integers(0, len(TEXTS) - 1), n_tokens=st.integers(1, N_TOKENS), wait=st.integers(0, 4),
    ends=st.sampled_from(["", "", "cancel", "deadline"]), after=st.integers(0, 14), n_emitted=st.integers(0, 2),
    team=st.integers(1, 2),
)  # fmt: skip


def request_for(zoo: Zoo, arrival: Arrival, name: str) -> Request:
    tokenizer = zoo.backbone.tokenizer
    ids = prompt_ids(tokenizer, [{"role": "user", "content": TEXTS[arrival.text]}])
    about = dict(MODES[arrival.mode])
    if "choices" in about:
        about["choices"] = tuple(tuple(completion_ids(tokenizer, text)) for text in about["choices"])
    parts = {key: about.pop(key) for key in ("schema", "choices", "writes") if key in about}
    request = request_of(zoo, arrival.kind, ids, name=name, team=arrival.team, max_tokens=arrival.n_tokens, **about)
    return replace(request, **parts)


def play(
    engine: Engine, given: Sequence[Arrival], requests: Sequence[Request], *, after_step: Callable[[int], None]
) -> Outcome:
    """Runs a schedule to its end."""
    left, events = deque(zip(given, requests, strict=True)), []
    due, ends, now = 0, {}, 0
    while left or not engine.is_idle:
        while left and due + left[0][0].wait <= now:
            due += left[0][0].wait
            arrival, request = left.popleft()
            engine.submit(request)
            ends.setdefault(now + arrival.after, []).append((request.id, arrival.ends))
        for name, how in ends.pop(now, ()):
            give_up(engine, name, how)
        events += engine.step()
        after_step(now)
        now += 1
        assert now < 3000, "the schedule does not end"
    return Outcome(events)


def give_up(engine: Engine, name: str, how: str) -> None:
    if how == "cancel":
        engine.cancel(name)
    elif how == "deadline" and name in engine._rows:
        row = engine._rows[name]
        row.request = replace(row.request, deadline=time.monotonic() - 1)


def poison(engine: Engine) -> None:
    """Everything that no row may read: free slots, and what lies beyond each row's columns."""
    with torch.inference_mode():
        for batch in engine.batches:
            live = batch.scheduler.live
            for layer in batch.runner.cache.layers:
                for store in (layer.keys, layer.values):
                    store[len(live) :] = POISON
                    for row in live:
                        store[row.slot, :, row.n_columns :] = -POISON


def check_books(engine: Engine) -> None:
    """What holds after every step."""
    for batch in engine.batches:
        table = batch.scheduler.table
        assert [row.slot for row in table.rows] == list(range(len(table.rows)))
        assert [row.state for row in table.rows] == ["decode"] * table.n_decoding + ["prefill"] * (
            len(table.rows) - table.n_decoding
        )
        assert all(row.n_columns <= row.capacity <= batch.runner.length for row in table.rows)
        changed = {row.slot for row in table.rows if row.adapter is not None and row.adapter.changes}
        assert set(batch.runner.sites.rows) == changed
        assert {row.request.id for row in table.rows} <= set(engine._rows)
    store = engine.prefixes.store
    assert store.n_bytes == sum(prefix.nbytes for prefix in store._kept.values())
    assert store.n_bytes <= store._budget_bytes or len(store._kept) == 1


def check_at_rest(engine: Engine) -> None:
    """Nothing is left of any row."""
    assert engine.is_idle and not engine.snapshot().rows and engine.snapshot().queue == 0
    assert not engine.own._waiting and engine.own.n_waiting == 0
    for batch in engine.batches:
        scheduler, queue = batch.scheduler, batch.scheduler.queue
        assert batch.is_idle and scheduler.table.n_free == scheduler.table.n_slots and not scheduler.table.n_decoding
        assert not (queue._flows or queue._tasks or queue._teams.served)
        assert not batch.runner.sites.rows
        assert not any(site.slots for site in batch.runner.sites.by_name.values())


def ids_in(events: Sequence[Event], name: str) -> list[int]:
    return [i for event in events if isinstance(event, Token) and event.id == name for i in event.ids]


def end_of(events: Sequence[Event], name: str) -> Done | Failed:
    (end,) = [event for event in events if isinstance(event, Done | Failed) and event.id == name]
    return end
