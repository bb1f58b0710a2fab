"""The search for a technique's learning rate on the validation rows: successive halving (Jamieson and Talwalkar 2016,
arXiv 1502.07943), with the schedule of `ml.study.halving`.

All tries have the spec of the whole training; they run to the first rung, the better half goes on to the next, and the
last one to the end. Which is better is decided as everywhere in training: accuracy, then loss; by loss where answers
are free text. A try that diverges is out; when all do, the technique fails with the last one's reason. What is decided
is kept in a file, so that a search that was interrupted goes on from there and from the checkpoints.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cmp_to_key
from pathlib import Path
from typing import Any

from ml.errors import ColdframeError
from ml.evaluate.metrics import better
from ml.files import write_json
from ml.study.halving import n_kept, rungs
from ml.study.training import Interrupted, Lane, as_error

logger = logging.getLogger(__name__)
Advance = Callable[[Lane, int, str], None]
"""Takes a lane to a step; the text says where it stands, for people."""


@dataclass(kw_only=True)
class Try:
    """One learning rate."""

    lane: Lane
    rungs: list[dict[str, Any]] = field(default_factory=list)
    state: str = "kept"
    error: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        found = {"learning_rate": self.lane.spec.learning_rate, "rungs": self.rungs, "state": self.state}
        return {**found, "seconds": round(self.lane.seconds, 2), **({"error": self.error} if self.error else {})}

    @property
    def step(self) -> int:
        """Of the last rung that it reached."""
        return int(self.rungs[-1]["step"]) if self.rungs else 0

    @property
    def found(self) -> dict[str, float]:
        """What it was worth there, as training compares it."""
        last = self.rungs[-1] if self.rungs else {}
        named = {"accuracy": last.get("value"), "loss": last.get("loss")}
        return {name: value for name, value in named.items() if value is not None}


class Search:
    """The tries of one technique; what is decided about them lies in `memory`."""

    def __init__(self, lanes: Sequence[Lane], memory: Path, *, forget: Callable[[Lane], None]) -> None:
        self.tries = [Try(lane=lane) for lane in lanes]
        self._memory, self._forget = memory, forget
        for one, known in zip(self.tries, _read(memory, len(lanes)), strict=False):
            one.rungs, one.state, one.error = known["rungs"], known["state"], known.get("error")
            one.lane.seconds = known["seconds"]

    @property
    def left(self) -> list[Try]:
        return [one for one in self.tries if one.state == "kept"]

    def run(self, steps: int, advance: Advance) -> Try:
        """The try that is kept, standing at the last rung; with one try nothing is run.

        Raises Interrupted when told to stop, and the failure itself when every try failed.
        """
        planned = rungs(len(self.tries), steps)
        for rung in planned:
            if all(one.step >= rung for one in self.left):
                continue  # decided before an interruption
            self._climb(rung, advance)
            self._halve(to_one=rung == planned[-1])
            self._keep()
        if not self.left:
            raise self._last_failure()
        return self.left[0]

    def _climb(self, rung: int, advance: Advance) -> None:
        failure: Exception | None = None
        for number, one in enumerate(left := self.left, start=1):
            if one.step >= rung:
                continue  # it stood there when the search was interrupted
            text = f"trying learning rate {one.lane.spec.learning_rate:.3g}, {number} of {len(left)}"
            try:
                advance(one.lane, rung, text)
            except Interrupted:
                self._keep()
                raise
            except Exception as error:
                logger.warning("a try at %g failed", one.lane.spec.learning_rate, exc_info=True)
                one.state, one.error, failure = "failed", as_error(error), error
                self._forget(one.lane)
            else:
                one.rungs.append({**one.lane.looks[-1].as_dict(), "step": rung})
        if failure is not None and not self.left:
            self._keep()
            raise failure

    def _halve(self, *, to_one: bool) -> None:
        """The worse ones are dropped; after the last rung of a short training all but the best."""

        def order(a: Try, b: Try) -> int:
            return -1 if better(a.found, b.found) else int(better(b.found, a.found))

        ranked = sorted(self.left, key=cmp_to_key(order))
        for one in ranked[1 if to_one else n_kept(len(ranked)) :]:
            one.state = "dropped"
            self._forget(one.lane)

    def _last_failure(self) -> ColdframeError:
        """Of a search that had failed before it was interrupted."""
        error = dict(max(reversed(self.tries), key=lambda one: one.step).error or {})
        is_permanent = error.pop("permanent", True)
        failure = ColdframeError(**{"message": "Every learning rate that was tried failed.", **error})
        failure.permanent = is_permanent
        return failure

    def _keep(self) -> None:
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        draft = self._memory.with_name(f".{self._memory.name}")
        write_json(draft, [one.as_dict() for one in self.tries])
        draft.replace(self._memory)


def _read(memory: Path, n: int) -> list[dict[str, Any]]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return known if isinstance(known, list) and len(known) == n else []
