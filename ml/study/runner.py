"""A whole study in one process: one cell after another on one base model, each kept as soon as it is finished.

Guarantees: a technique that fails is kept with its reason and the others go on; told to stop, it leaves checkpoints and
goes on from there when it is started again; the budget is asked before every cell, and what no longer fits is left out
with the reason; nothing is chosen by looking at the test rows. Where the time went (search, training, measuring, and
what the study itself cost) is part of the result.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.data.rows import Dataset
from ml.evaluate.answers import Answered
from ml.evaluate.metrics import better
from ml.evaluate.summary import costs, summarize
from ml.events import Emitter
from ml.specs import METHODS
from ml.specs.study import StudySpec, metrics_for
from ml.study.about import about_study
from ml.study.asking import Asking
from ml.study.base import Base
from ml.study.board import board
from ml.study.budget import Budget
from ml.study.cells import Cell, Kept, cells_of, identity_of, ranked_by
from ml.study.doing import Doing
from ml.study.drawing import share_of
from ml.study.report import write_reports
from ml.study.training import Interrupted, as_error, heard

BOARD_SHARE = 0.01
"""Of the time so far that may go into boards while the study runs."""
SAY_EVERY_S = 1.0
_BRIEF = ("state", "value", "interval", "reason", "error", "learning_rate", "seconds")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where a study lives and what it is about."""

    spec: StudySpec
    dataset: Dataset
    """With the rows that the study draws (ml.study.drawing)."""
    mapping: Mapping[str, Any]
    """Of the data set version: how its rows are framed."""
    workdir: Path
    before: Path | None
    """`out` of the same study before it was extended."""
    command: str
    started_at: str


class Study:
    """`run()` until everything is done, or Interrupted is raised."""

    def __init__(
        self, setting: Setting, *, base: Base, asking: Asking, budget: Budget, emit: Emitter,
        should_stop: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.setting, self.spec, self.base, self.asking = setting, setting.spec, base, asking
        self.budget, self.emit = budget, heard(emit)
        self.kept = Kept(setting.workdir / "out")
        self.cells = cells_of(self.spec, budget.order)
        self.work = setting.workdir / "work"
        self.doing = Doing(
            self.spec, setting.dataset, setting.mapping, self.work, base=base, asking=asking, budget=budget,
            kept=self.kept, emit=self.emit, say=self._say, should_stop=should_stop,
        )  # fmt: skip
        self.first_seed = self.spec.seeds[0]
        self._said = self._boards_s = 0.0
        self._n_over = 0
        self._eta_s: float | None = None
        passages = asking.passages.sha256 if asking.passages else ""
        self._identities = {
            cell.key: identity_of(cell, self.spec, fingerprint=base.fingerprint, passages_sha256=passages,
                                  rows_sha256=setting.dataset.content_sha256)
            for cell in self.cells
        }  # fmt: skip

    @property
    def metric_names(self) -> list[str]:
        """What every cell is measured by; the study's own first."""
        fitting = metrics_for(self.setting.dataset.kind or self.setting.dataset.task)
        if not self.asking.has_numbers():
            fitting = [name for name in fitting if name != "numeric"]
        return [self.spec.metric, *(name for name in fitting if name != self.spec.metric)]

    def run(self) -> dict[str, Any]:
        """The board. Raises Interrupted after checkpoints."""
        self.kept.check_belongs(self._identities)
        if self.setting.before is not None:
            for key in self.kept.take_over(self.setting.before, self._identities, metric=self.spec.metric):
                self.emit("phase", text=f"{key} is taken over from before")
        self._count()
        try:
            for cell in self.cells:
                known = self.kept.read(cell.key)
                if known is None or known["state"] == "left_out":
                    self._do(cell)
                    self._tell_board()
        except Interrupted:
            self._finish()
            raise
        found = self._finish()
        shutil.rmtree(self.work, ignore_errors=True)
        return found

    def _finish(self) -> dict[str, Any]:
        """Board and reports of what is there."""
        with self.budget.spends("overhead"):
            self._keep_best_artifacts(*self.spec.techniques)
            found = self._board()
            write_reports(self.kept.out)
        self.emit("board", **found)
        return found

    def _do(self, cell: Cell) -> None:
        if reason := self._why_not(cell):
            self._keep(cell, {"state": "left_out", "reason": reason})
            return
        try:
            found, lines = self.doing.do(cell)
        except Interrupted:
            raise
        except Exception as error:
            logger.exception("%s failed", cell.key)
            shutil.rmtree(self.kept.artifact(cell.key), ignore_errors=True)
            self._keep(cell, {"state": "failed", "error": as_error(error)})
        else:
            self._keep(cell, {"state": "done", **found, **self._measured(lines)}, lines)
            self.budget.finished(cell, found["seconds"], self.first_seed)
            self._keep_best_artifacts(cell.technique)
        self._clear(cell)

    def _why_not(self, cell: Cell) -> str:
        """Why a cell is not begun; "" when it is."""
        first = self.kept.read(Cell(technique=cell.technique, seed=self.first_seed).key)
        if first is not None and first["key"] != cell.key and first["state"] != "done":
            return "Its first seed failed." if first["state"] == "failed" else "Its first seed was left out."
        return self.budget.why_not(cell, self.first_seed)

    def _keep(self, cell: Cell, found: Mapping[str, Any], lines: Sequence[Mapping[str, Any]] = ()) -> None:
        n_rows = len(share_of(self.setting.dataset, cell.share).splits["train"])
        whole = {**cell.about(), "reason": "", "error": None, "identity": self._identities[cell.key],
                 "n_train_rows": n_rows, **found}  # fmt: skip
        with self.budget.spends("overhead"):
            self.kept.write(whole, lines)
        self.doing.tell(cell, **{name: whole[name] for name in _BRIEF if name in whole})
        self._count()

    def _count(self) -> None:
        """Looks at how many cells are over, and says so."""
        left = [cell for cell in self.cells if self.kept.read(cell.key) is None]
        self._n_over, self._eta_s = len(self.cells) - len(left), self.budget.eta_s(left, self.first_seed)
        self._counted = time.monotonic()
        self._said = 0.0
        self._say("")

    def _say(self, text: str) -> None:
        now = time.monotonic()
        if now - self._said < SAY_EVERY_S:
            return
        self._said = now
        eta = {} if self._eta_s is None else {"eta_s": round(max(0.0, self._eta_s - (now - self._counted)), 1)}
        self.emit("progress", done=self._n_over, total=len(self.cells), text=text, **eta)

    def _measured(self, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        with self.budget.spends("overhead"):
            rows = [Answered.from_dict(line) for line in lines]
            names = self.metric_names
            if rows and all(row.scores for row in rows):
                names = [*names, "ece"]
            found, took = summarize(rows, metrics=names), costs(lines)
        return {"metrics": found["metrics"], "intervals": found["intervals"], "n_rows": len(rows),
                **ranked_by(self.spec.metric, found), **took}  # fmt: skip

    def _clear(self, cell: Cell) -> None:
        """The cell's work folder, and what was computed once when no other cell needs it any more."""
        shutil.rmtree(self.work / cell.key, ignore_errors=True)
        if not any(other.lesson == cell.lesson and not self.kept.read(other.key) for other in self.cells):
            self.doing.trainings.forget_cache(cell.lesson)

    def _keep_best_artifacts(self, *techniques: str) -> None:
        """Of a technique's seeds the artifact of the one that did best on the validation rows stays; of smaller shares
        none."""
        for technique in techniques:
            keys = [cell.key for cell in self.cells if cell.technique == technique and technique in METHODS]
            done = {key: found for key in keys if (found := self.kept.read(key)) and found["state"] == "done"}
            best: dict[str, Any] = {}
            for found in done.values():
                if found["share"] >= 1 and (not best or better(_valid(found), _valid(best))):
                    best = found
            for key in (key for key in keys if key != best.get("key")):
                if key in done and done[key]["artifact"]:
                    self.kept.write({**done[key], "artifact": ""})
                shutil.rmtree(self.kept.artifact(key), ignore_errors=True)

    def _board(self) -> dict[str, Any]:
        cells = [found for cell in self.cells if (found := self.kept.read(cell.key))]
        about = about_study(
            self.spec, self.setting.dataset, fingerprint=self.base.fingerprint, command=self.setting.command,
            started_at=self.setting.started_at, seconds=self.budget.spent_s, overhead_s=self.budget.overhead_s,
            spent=self.budget.spent, device=self.base.device,
        )  # fmt: skip
        rows = {cell["key"]: self.kept.rows(cell["key"]) for cell in cells if cell["state"] == "done"}
        found = board(self.spec, about, cells, rows)
        self.kept.write_about("study.json", about)
        self.kept.write_about("board.json", found)
        return found

    def _tell_board(self) -> None:
        """A board of what is there, unless boards have taken more than their share of the time."""
        if self._boards_s > BOARD_SHARE * self.budget.spent_s:
            return
        with self.budget.spends("overhead") as spent:
            self.emit("board", **self._board())
        self._boards_s += spent()


def _valid(cell: Mapping[str, Any]) -> dict[str, float]:
    names = {"accuracy": "valid_value", "loss": "valid_loss"}
    return {name: float(cell[key]) for name, key in names.items() if cell.get(key) is not None}
