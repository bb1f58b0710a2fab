"""One cell of a study: the untouched model asked, or a technique searched, trained and measured.

What comes back is the cell's figures beside those that every cell has (ml.study.runner), and a line for each test row.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml.artifact import load_adapter
from ml.cli_train import lesson_for
from ml.data.rows import Dataset
from ml.events import Emitter
from ml.specs import METHODS, TrainSpec
from ml.specs.study import TECHNIQUES, StudySpec
from ml.study.asking import AS_ROWS, Asking
from ml.study.base import Base
from ml.study.budget import Budget
from ml.study.cells import Cell, Kept
from ml.study.drawing import share_of
from ml.study.halving import learning_rates, rungs
from ml.study.measuring import Measuring, by_objective
from ml.study.searching import Search
from ml.study.training import Interrupted, Lane, Listener, Trainings, spec_for

LONGEST_SLOT = 2048
Found = tuple[dict[str, Any], list[dict[str, Any]]]
"""A cell's figures, and a line for each test row."""


class Doing:
    def __init__(
        self, spec: StudySpec, dataset: Dataset, mapping: Mapping[str, Any], work: Path, *, base: Base, asking: Asking,
        budget: Budget, kept: Kept, emit: Emitter, say: Callable[[str], None], should_stop: Callable[[], bool],
    ) -> None:  # fmt: skip
        """`say` shows where a cell stands; it may be called as often as one likes."""
        self.spec, self.dataset, self.mapping, self.work = spec, dataset, mapping, work
        self.base, self.asking, self.budget, self.kept = base, asking, budget, kept
        self.emit, self.say, self.should_stop = emit, say, should_stop
        self.trainings = Trainings(base, work, should_stop=should_stop)
        self._measuring: Measuring | None = None

    def do(self, cell: Cell) -> Found:
        """Raises Interrupted when told to stop, and whatever makes the cell fail."""
        return self._trained(cell) if cell.technique in METHODS else self._asked(cell)

    def tell(self, cell: Cell, **values: Any) -> None:
        place = {"key": cell.key, "technique": cell.technique, "seed": cell.seed, "share": cell.share}
        self.emit("cell", **place, **values)

    def _asked(self, cell: Cell) -> Found:
        self.tell(cell, state="measuring")
        with self.budget.spends("measure") as spent:
            if self.base.family == "decoder":
                asking = self.asking.with_rows(share_of(self.dataset, cell.share))
                asked = asking.technique(cell.technique, cell.seed)
                lines = self._engine().answers(
                    asked, artifact=None, seed=cell.seed, check=self._check, progress=self._progress_of(cell)
                )
            else:
                asked, spec = AS_ROWS, self.any_spec()
                lines = self._by_objective(cell, spec, self.base.plain(spec))
        return {"spec": asked.about, "artifact": "", "artifact_bytes": _bytes_of(asked.about), "n_trainable": 0,
                "search_s": 0.0, "train_s": 0.0, "measure_s": spent(), "seconds": spent()}, lines  # fmt: skip

    def _trained(self, cell: Cell) -> Found:
        dataset = share_of(self.dataset, cell.share)
        processor = time.process_time()
        lane, tries = self._found_rate(cell, dataset)
        self.tell(cell, state="training", learning_rate=lane.spec.learning_rate)
        with self.budget.spends("train"):
            self._advance(cell, lane, dataset, lane.spec.steps, "training")
        processor = time.process_time() - processor
        artifact = self.kept.artifact(cell.key)
        shutil.rmtree(artifact, ignore_errors=True)
        shutil.copytree(lane.folder / "out", artifact)
        self.tell(cell, state="measuring", learning_rate=lane.spec.learning_rate)
        with self.budget.spends("measure") as measured:
            lines = self._answers_of(cell, lane, artifact)
        others = sum(one["seconds"] for one in tries if one["learning_rate"] != lane.spec.learning_rate)
        return {
            "spec": lane.spec.as_dict(), "artifact": f"artifacts/{cell.key}", "learning_rate": lane.spec.learning_rate,
            "steps": lane.spec.steps, "kept_step": lane.kept_step, "n_trainable": lane.n_trainable,
            "artifact_bytes": sum(path.stat().st_size for path in artifact.iterdir()), "peak_bytes": lane.peak_bytes,
            "valid_value": lane.best.get("accuracy"), "valid_loss": lane.best.get("loss"), "tries": tries,
            "curve": [look.as_dict() for look in lane.looks], "search_s": round(others, 2),
            "train_s": round(lane.seconds, 2), "measure_s": measured(), "processor_s": round(processor, 1),
            "seconds": round(others + lane.seconds + measured(), 2),
        }, lines  # fmt: skip

    def _found_rate(self, cell: Cell, dataset: Dataset) -> tuple[Lane, list[dict[str, Any]]]:
        """The lane that goes on to the end, and the tries that it won against: of a technique's first cell only; all
        others take its learning rate."""
        first = self.kept.read(Cell(technique=cell.technique, seed=self.spec.seeds[0]).key)
        if first is not None and first["key"] != cell.key:
            return self._lane(cell, float(first["learning_rate"]), "run"), []
        default = spec_for(self.spec, cell.technique, seed=cell.seed).learning_rate
        rates = learning_rates(default, self.spec.n_tries)
        lanes = [self._lane(cell, rate, f"try-{place}") for place, rate in enumerate(rates)]
        search = Search(lanes, self.work / cell.key / "tries.json", forget=self.trainings.forget)
        if len(lanes) > 1:
            self.tell(cell, state="searching")
        with self.budget.spends("search"):
            won = search.run(lanes[0].spec.steps, lambda lane, to, text: self._advance(cell, lane, dataset, to, text))
        return won.lane, [one.as_dict() for one in search.tries]

    def _lane(self, cell: Cell, rate: float, name: str) -> Lane:
        plain = spec_for(self.spec, cell.technique, seed=cell.seed)
        first, *_ = rungs(max(3, self.spec.n_tries), plain.steps)
        spec = spec_for(self.spec, cell.technique, seed=cell.seed, learning_rate=rate, eval_every=first,
                        share=cell.share)  # fmt: skip
        return Lane(spec=spec, folder=self.work / cell.key / name)

    def _advance(self, cell: Cell, lane: Lane, dataset: Dataset, to: int, text: str) -> None:
        label = f"{TECHNIQUES[cell.technique].label}, seed {cell.seed}"

        def tell(event: str, values: dict[str, Any]) -> None:
            if event == "step":
                self.say(f"{label}: {text}, step {values['step']} of {lane.spec.steps}, loss {values['loss']:.3g}")
            elif event == "progress":
                self.say(f"{label}: {values.get('text', text)}, {values['done']} of {values['total']} rows")
            elif event == "warning":
                self.emit("warning", text=f"{label}: {values['text']}")

        self.trainings.advance(lane, dataset, to=to, cache=cell.lesson, tell=tell)

    def _answers_of(self, cell: Cell, lane: Lane, artifact: Path) -> list[dict[str, Any]]:
        if self.base.family == "decoder":
            return self._engine().answers(
                AS_ROWS, artifact=artifact, seed=cell.seed, check=self._check, progress=self._progress_of(cell)
            )
        backbone = self.base.for_training(lane.spec)
        return self._by_objective(cell, lane.spec, backbone, load_adapter(backbone, artifact))

    def _by_objective(self, cell: Cell, spec: TrainSpec, backbone: Any, model: Any = None) -> list[dict[str, Any]]:
        lesson = lesson_for(spec, backbone, self.dataset, Listener(lambda *_: None))
        return by_objective(lesson.objective, model or backbone.model, self.dataset, check=self._check,
                            progress=self._progress_of(cell))  # fmt: skip

    def any_spec(self) -> TrainSpec:
        """For what only asks for the base model's precision and reading."""
        name = next(name for name, method in METHODS.items() if self.base.family in method.families)
        return spec_for(self.spec, name, seed=self.spec.seeds[0])

    def _engine(self) -> Measuring:
        if self._measuring is None:
            backbone = self.base.plain(self.any_spec())
            wanted = self.spec.max_length + self.spec.max_tokens
            positions = int(getattr(backbone.model.config, "max_position_embeddings", 0) or LONGEST_SLOT)
            self._measuring = Measuring(
                backbone, self.dataset, self.mapping, length=min(max(LONGEST_SLOT, wanted), positions),
                max_tokens=self.spec.max_tokens,
            )  # fmt: skip
        return self._measuring

    def _progress_of(self, cell: Cell) -> Callable[[int, int], None]:
        label = TECHNIQUES[cell.technique].label
        return lambda done, total: self.say(f"{label}, seed {cell.seed}: {done} of {total} rows answered")

    def _check(self) -> None:
        if self.should_stop():
            raise Interrupted


def _bytes_of(about: Mapping[str, Any]) -> int:
    """What a prompt takes: its texts."""
    pairs = [text for example in about["examples"] for text in example.values()]
    return sum(len(str(text).encode()) for text in (about["system"], about["template"], *pairs))
