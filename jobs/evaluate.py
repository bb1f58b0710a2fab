"""`python -m jobs.evaluate --workdir DIR`: puts an evaluation's rows to the engines and sums the answers up.

DIR holds spec.json and requests.jsonl (jobs/evaluation.py). What jobs/asking.py guarantees holds for every row: kept at
once, never lost, waited for; SIGTERM exits 75. Output: out/results.jsonl, one line a row in the rows' order, and
out/summary.json.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jobs import asking
from jobs.asking import STOPPED, TRIES, Emit, Stopped
from jobs.asking import read_kept as read_kept
from jobs.asking_main import run_asking
from jobs.evaluate_row import Item, Outcome, ask_once, read_answer
from jobs.evaluate_sum import write_results
from ml.errors import ColdframeError


class Asking(asking.Asking[Item]):
    """All rows of one evaluation."""

    def __init__(self, workdir: Path, spec: dict[str, Any], emit: Emit) -> None:
        super().__init__(workdir, read_items(workdir / "requests.jsonl"), emit)
        self.spec = spec

    async def answer(self, item: Item) -> dict[str, Any]:
        outcome = Outcome()
        for _ in range(TRIES):
            try:
                outcome = await self.patiently(partial(self._ask, item))
            except ColdframeError as error:
                if is_of_all_rows(error):
                    raise
                outcome = Outcome(error=error)
            if not outcome.is_half:
                break
        return read_answer(item, outcome, self.spec)

    async def _ask(self, item: Item) -> Outcome:
        request = item.request()
        with self.under_way(request.id):
            return await ask_once(request, on_wait=self.on_wait)


def is_of_all_rows(error: ColdframeError) -> bool:
    """Whether an error says something about the subject rather than about one row."""
    return error.code in ("invalid_artifact", "invalid_model", "not_found", "invalid_spec")


def read_items(path: Path) -> list[Item]:
    with path.open(encoding="utf-8") as file:
        return [Item(**json.loads(line)) for line in file]


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


def main(argv: Sequence[str] | None = None) -> int:
    return run_asking(argv, evaluate, module="jobs.evaluate", about=__doc__, what="the evaluation")


if __name__ == "__main__":
    sys.exit(main())
