"""`python -m jobs.evaluate --workdir DIR`: puts an evaluation's rows to the engines and sums the answers up.

DIR holds spec.json and requests.jsonl (jobs/evaluation.py). What jobs/asking.py guarantees holds for every row: kept at
once, never lost, waited for; SIGTERM exits 75. Output: out/results.jsonl, one line a row in the rows' order, and
out/summary.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from jobs import asking, stream_redis
from jobs.asking import STOPPED, TRIES, Emit, Stopped
from jobs.asking import read_kept as read_kept
from jobs.evaluate_row import Item, Outcome, ask_once, read_answer
from jobs.evaluate_sum import write_results
from ml.__main__ import UNEXPECTED, exit_code
from ml.errors import ColdframeError
from ml.events import claim_stdout

logger = logging.getLogger(__name__)


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
