"""`python -m jobs.evaluate --workdir DIR`: puts an evaluation's rows to the engines and sums the answers up.

DIR holds spec.json and requests.jsonl (jobs/evaluation.py). As many requests are under way as the engines have room
for, so that they share the engines' batches. Guarantees: every answered row is kept at once in answers.jsonl, and a
second start goes on with the rows that are left; an engine that dies costs nothing but time, since another goes on with
its rows; a Redis that is away is waited for; SIGTERM takes back what was asked and exits 75. Needs neither database
nor model. Output: out/results.jsonl, one line a row in the rows' order, and out/summary.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from jobs import stream, stream_redis
from jobs.evaluate_row import Item, Outcome, ask_once, read_answer
from jobs.evaluate_sum import write_results
from ml.__main__ import UNEXPECTED, exit_code
from ml.errors import BusyError, ColdframeError, UnavailableError
from ml.events import claim_stdout

STOPPED = 75
TRIES = 3
"""How often a row is asked when its answer was lost on the way."""
SAY_EVERY_S = 0.5
LEAST_AT_ONCE, MOST_AT_ONCE = 8, 192
logger = logging.getLogger(__name__)
Emit = Callable[..., None]


class Stopped(Exception):
    """Told to stop."""


class Asking:
    """All rows of one evaluation."""

    def __init__(self, workdir: Path, spec: dict[str, Any], emit: Emit) -> None:
        self.workdir, self.spec, self.emit = workdir, spec, emit
        self.items = read_items(workdir / "requests.jsonl")
        self.kept = read_kept(workdir / "answers.jsonl")
        self.left = [item for item in self.items if item.place not in self.kept]
        self.n_before = len(self.kept)
        self.began = time.monotonic()
        self.waits = ""
        """Why nothing moves, for people."""
        self._said = 0.0
        self._under_way: set[str] = set()

    def say(self, *, now: bool = False) -> None:
        if not now and time.monotonic() - self._said < SAY_EVERY_S:
            return
        self._said = time.monotonic()
        n_new, total = len(self.kept) - self.n_before, len(self.items)
        pace_s = (self._said - self.began) / n_new if n_new else None
        eta_s = round(pace_s * (total - len(self.kept)), 1) if pace_s is not None else None
        self.emit("progress", done=len(self.kept), total=total, text=self.waits, eta_s=eta_s)

    async def run(self) -> None:
        """Raises Stopped, or the ColdframeError for which every row would fail."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        queue = asyncio.Queue[Item]()
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
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for request_id in list(self._under_way):
            with suppress(ColdframeError):
                await stream.acancel(request_id)

    async def _worker(self, queue: asyncio.Queue[Item]) -> None:
        while True:
            try:
                item = queue.get_nowait()
            except asyncio.QueueEmpty:
                return
            self._keep(await self._answer(item))

    async def _answer(self, item: Item) -> dict[str, Any]:
        n_tries = 0
        while True:
            request = item.request()
            self._under_way.add(request.id)
            try:
                outcome = await ask_once(request, on_wait=self._wait_said)
            except BusyError as error:
                await self._pause("The queue of the engines is full; waiting.", error.retry_after_s)
                continue
            except UnavailableError as error:
                n_tries += error.code in ("engine_lost", "deadline")
                if n_tries < TRIES:
                    await self._pause(f"{error.message} Asking again.", 2)
                    continue
                outcome = Outcome(error=error)
            except ColdframeError as error:
                if is_of_all_rows(error):
                    raise
                outcome = Outcome(error=error)
            finally:
                self._under_way.discard(request.id)
            if outcome.is_half and n_tries < TRIES:
                n_tries += 1
                continue
            return read_answer(item, outcome, self.spec)

    async def _pause(self, why: str, seconds: float) -> None:
        self.waits = why
        self.say()
        await asyncio.sleep(seconds)

    def _wait_said(self, n_engines: int) -> None:
        if not n_engines:
            self.waits = "No engine is running; waiting for one."
            self.say()

    def _keep(self, answer: dict[str, Any]) -> None:
        with (self.workdir / "answers.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(answer, ensure_ascii=False) + "\n")
        self.kept[answer["place"]] = answer
        self.waits = ""
        self.say()


def is_of_all_rows(error: ColdframeError) -> bool:
    """Whether an error says something about the subject rather than about one row."""
    return error.code in ("invalid_artifact", "invalid_model", "not_found", "invalid_spec")


async def at_once() -> int:
    """Requests under way: twice what the engines can hold, so that the next ones are prepared in time."""
    try:
        n_slots = sum(int(engine.get("slots") or 0) for engine in await stream.aengines())
    except UnavailableError:
        n_slots = 0
    return max(LEAST_AT_ONCE, min(2 * n_slots or 32, MOST_AT_ONCE))


def read_items(path: Path) -> list[Item]:
    with path.open(encoding="utf-8") as file:
        return [Item(**json.loads(line)) for line in file]


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


def evaluate(workdir: Path, emit: Emit) -> int:
    began = time.monotonic()
    spec = json.loads((workdir / "spec.json").read_text(encoding="utf-8"))
    asking = Asking(workdir, spec, emit)
    emit("phase", text="Asking the engine")
    try:
        asyncio.run(asking.run())
    except Stopped:
        emit("stopped", step=len(asking.kept))
        return STOPPED
    emit("phase", text="Summing up")
    answers = [asking.kept[item.place] for item in asking.items]
    summary = write_results(workdir / "out", answers, spec, seconds=time.monotonic() - began)
    emit("finished", metrics=summary["metrics"], seconds=summary["figures"]["seconds"], out=str(workdir / "out"))
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.evaluate", description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    args = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    stream_redis.configure(os.environ["REDIS_URL"])
    emit = claim_stdout()
    try:
        return evaluate(args.workdir, emit)
    except ColdframeError as error:
        emit("failed", error=error.as_dict())
        return exit_code(error)
    except Exception as error:
        logger.exception("the evaluation failed")
        failure = ColdframeError(f"{type(error).__name__}: {error}", hint="The log has the details.", code="unexpected")
        emit("failed", error={**failure.as_dict(), "permanent": False})
        return UNEXPECTED


if __name__ == "__main__":
    sys.exit(main())
