"""Many requests put to the engines, their answers kept one by one: what evaluations and batches have in common.

As many are under way as the engines have room for, so that they share the engines' batches. Guarantees: every answer is
kept at once in answers.jsonl, and a second start goes on with those that are left; an engine that dies costs nothing
but time; a Redis or an engine that is away is waited for; SIGTERM takes back what was asked. Needs neither database nor
model.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from jobs import stream
from ml.errors import BusyError, ColdframeError, UnavailableError

STOPPED = 75
TRIES = 3
"""How often something is asked when its answer was lost on the way."""
SAY_EVERY_S = 0.5
LEAST_AT_ONCE, MOST_AT_ONCE = 8, 192
Emit = Callable[..., None]
T = TypeVar("T")


class Placed(Protocol):
    @property
    def place(self) -> int: ...


ItemT = TypeVar("ItemT", bound=Placed)


class Stopped(Exception):
    """Told to stop."""


class Asking(Generic[ItemT]):
    """All items of one run. A kind of run says what `answer` is: the line that is kept, with `place`."""

    def __init__(self, workdir: Path, items: Sequence[ItemT], emit: Emit) -> None:
        self.workdir, self.items, self.emit = workdir, items, emit
        self.kept = read_kept(workdir / "answers.jsonl")
        self.left = [item for item in self.items if item.place not in self.kept]
        self.n_before = len(self.kept)
        self.began = time.monotonic()
        self.waits = ""
        """Why nothing moves, for people."""
        self.does = ""
        """What it does while it moves."""
        self._said = 0.0
        self._under_way: set[str] = set()

    async def answer(self, item: ItemT) -> dict[str, Any]:
        """Raises the ColdframeError for which every item would fail."""
        raise NotImplementedError

    def said(self) -> dict[str, Any]:
        """What progress tells besides."""
        return {}

    def say(self, *, now: bool = False) -> None:
        if not now and time.monotonic() - self._said < SAY_EVERY_S:
            return
        self._said = time.monotonic()
        n_new, total = len(self.kept) - self.n_before, len(self.items)
        pace_s = (self._said - self.began) / n_new if n_new else None
        eta_s = round(pace_s * (total - len(self.kept)), 1) if pace_s is not None else None
        self.emit(
            "progress", done=len(self.kept), total=total, text=self.waits or self.does, eta_s=eta_s, **self.said()
        )

    async def run(self) -> None:
        """Raises Stopped, or what `answer` raises."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        queue = asyncio.Queue[ItemT]()
        for item in self.left:
            queue.put_nowait(item)
        self.say(now=True)
        n_workers = min(await at_once(), len(self.left))
        work: list[asyncio.Task[Any]] = [asyncio.create_task(self._worker(queue)) for _ in range(n_workers)]
        stopping: asyncio.Task[Any] = asyncio.create_task(stop.wait())
        try:
            while work and not stop.is_set():
                done, _ = await asyncio.wait({*work, stopping}, timeout=5, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {stopping}:
                    task.result()
                    work.remove(task)
                self.say()
        finally:
            await self._take_back([*work, stopping])
        if stop.is_set() and len(self.kept) < len(self.items):
            raise Stopped
        self.say(now=True)

    async def _take_back(self, tasks: list[asyncio.Task[Any]]) -> None:
        await stream.end_tasks(tasks)
        await asyncio.gather(*tasks, return_exceptions=True)  # the first failure is told; others are taken note of
        for request_id in list(self._under_way):
            with suppress(ColdframeError):
                await stream.acancel(request_id)

    async def _worker(self, queue: asyncio.Queue[ItemT]) -> None:
        while True:
            try:
                item = queue.get_nowait()
            except asyncio.QueueEmpty:
                return
            self._keep(await self.answer(item))

    @contextmanager
    def under_way(self, request_id: str) -> Iterator[None]:
        """What is inside when the run is told to stop is taken back: the task is cancelled, and its id stays."""
        self._under_way.add(request_id)
        try:
            yield
        except Exception:
            self._under_way.discard(request_id)
            raise
        self._under_way.discard(request_id)

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` brings: again while the queue is full or a part is away. Raises what a repetition cannot mend."""
        n_tries = 0
        while True:
            try:
                return await ask()
            except BusyError as error:
                await self._pause("The queue of the engines is full; waiting.", error.retry_after_s)
            except UnavailableError as error:
                n_tries += error.code in ("engine_lost", "deadline")
                if n_tries >= TRIES:
                    raise
                await self._pause(f"{error.message} Asking again.", 2)

    async def _pause(self, why: str, seconds: float) -> None:
        self.waits = why
        self.say()
        await asyncio.sleep(seconds)

    def on_wait(self, n_engines: int) -> None:
        if not n_engines:
            self.waits = "No engine is running; waiting for one."
            self.say()

    def _keep(self, answer: dict[str, Any]) -> None:
        with (self.workdir / "answers.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(answer, ensure_ascii=False) + "\n")
        self.kept[answer["place"]] = answer
        self.waits = ""
        self.say()


async def at_once() -> int:
    """Requests under way: twice what the engines can hold, so that the next ones are prepared in time."""
    try:
        n_slots = sum(int(engine.get("slots") or 0) for engine in stream.serving("", await stream.aengines()))
    except UnavailableError:
        n_slots = 0
    return max(LEAST_AT_ONCE, min(2 * n_slots or 32, MOST_AT_ONCE))


def read_kept(path: Path) -> dict[int, dict[str, Any]]:
    """What an earlier start has kept, by place. A last line that a kill cut short is taken off the file."""
    kept: dict[int, dict[str, Any]] = {}
    if not path.is_file():
        return kept
    n_good = 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            answer = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            answer = None
        if answer is None:
            break
        kept[answer["place"]] = answer
        n_good += len(line)
    os.truncate(path, n_good)
    return kept
