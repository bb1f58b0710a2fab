"""One training of a study: a technique at one learning rate and seed, which can be paused and gone on with.

It is the one training loop (`ml.train`) in a folder of its own, on the study's shared base. Paused at a step, it leaves
a checkpoint; gone on with, it is the training that was never paused. What is computed once (encoded rows, features,
activations below the trained layers) is shared by all trainings of a technique on the same rows.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml.artifact import Manifest
from ml.cli_train import Lesson, lesson_for, prepare
from ml.data.rows import Dataset
from ml.errors import ColdframeError
from ml.events import Emitter
from ml.files import write_json
from ml.limits import memory_advice
from ml.specs import METHODS, TrainSpec, train_spec
from ml.specs.study import StudySpec
from ml.study.base import Base, own_values
from ml.study.memory import Peak

NEVER = 1_000_000
Tell = Callable[[str, dict[str, Any]], None]
"""Told what a training says: the event's name and its values."""


class Listener(Emitter):
    """Hands a training's events on instead of writing them."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def __call__(self, event: str, **values: Any) -> None:
        self._tell(event, values)


class Interrupted(Exception):
    """The study was asked to stop; the training under way has left a checkpoint."""


def heard(emit: Emitter) -> Emitter:
    """`emit`, where nobody listens any more reason to stop: it must not pass for a fault of the technique under way."""

    def tell(event: str, values: dict[str, Any]) -> None:
        try:
            emit(event, **values)
        except OSError as error:
            raise Interrupted(f"nobody listens: {error}") from error

    return Listener(tell)


@dataclass(frozen=True, kw_only=True)
class Look:
    """The validation rows after `step` steps. `value` is the accuracy; None for free answers, whose loss counts."""

    step: int
    metrics: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return {"step": self.step, "value": self.metrics.get("accuracy"), "loss": self.metrics.get("loss")}


@dataclass(kw_only=True)
class Lane:
    """A training in its folder."""

    spec: TrainSpec
    folder: Path
    looks: list[Look] = field(default_factory=list)
    seconds: float = 0.0
    """Spent on it, the looks included; without what a kill took away."""
    peak_bytes: int = 0
    n_trainable: int = 0
    manifest: Manifest | None = None
    kept_step: int = 0

    def remember(self, seconds: float, peak_bytes: int) -> None:
        """What one more stretch took, also for whoever goes on with it in another process."""
        self.seconds, self.peak_bytes = self.seconds + seconds, max(self.peak_bytes, peak_bytes)
        write_json(self.folder / "took.json", {"seconds": self.seconds, "peak_bytes": self.peak_bytes})

    def recall(self) -> None:
        with suppress(OSError, ValueError):
            known = json.loads((self.folder / "took.json").read_text(encoding="utf-8"))
            self.seconds = max(self.seconds, float(known["seconds"]))
            self.peak_bytes = max(self.peak_bytes, int(known["peak_bytes"]))

    @property
    def last(self) -> dict[str, float]:
        return self.looks[-1].metrics if self.looks else {}

    @property
    def best(self) -> dict[str, float]:
        """Of the weights that are kept."""
        return next((look.metrics for look in self.looks if look.step == self.kept_step), self.last)


def spec_for(
    study: StudySpec, technique: str, *, seed: int, learning_rate: float | None = None, eval_every: int = 1,
    share: float = 1.0,
) -> TrainSpec:  # fmt: skip
    """The training spec of a lane. A technique that brings its own number of cheap steps or rows keeps it."""
    own = METHODS[technique].defaults
    sizes = {name: own.get(name, getattr(study, name)) for name in ("steps", "batch_size")}
    name = study.dataset if share >= 1 else f"{study.dataset}, {share:.0%} of the training rows"
    rate = {} if learning_rate is None else {"learning_rate": learning_rate}
    return train_spec({
        "method": technique, "base": study.base, "dataset": name, "dataset_sha256": study.dataset_sha256, **sizes,
        **rate, "seed": seed, "max_length": study.max_length, "eval_rows": study.valid_rows,
        "eval_every": eval_every, "checkpoint_every": NEVER, "flat_steps": 0, "keep_best": True,
    })  # fmt: skip


class Trainings:
    """Runs lanes, one at a time, on the shared base."""

    def __init__(self, base: Base, work: Path, *, should_stop: Callable[[], bool]) -> None:
        self.base, self.work, self.should_stop = base, work, should_stop
        self._lessons: dict[str, Lesson] = {}

    def advance(self, lane: Lane, dataset: Dataset, *, to: int, cache: str, tell: Tell) -> None:
        """Goes on to step `to`, measures the validation rows there, and ends with the artifact at the last step.

        `cache` names what is computed once for these rows. Raises Interrupted after a checkpoint, and whatever makes
        the training fail.
        """
        began = time.monotonic()
        lane.folder.mkdir(parents=True, exist_ok=True)
        lane.recall()
        self._link_cache(lane, cache)
        peak = Peak(self.base.device, held=self.base.held_bytes(lane.spec))
        try:
            with peak:
                self._run(lane, dataset, to, cache, tell)
        finally:
            lane.remember(time.monotonic() - began, peak.n_bytes)
            gc.collect()

    def _run(self, lane: Lane, dataset: Dataset, to: int, cache: str, tell: Tell) -> None:
        backbone = self.base.for_training(lane.spec)

        emit = Listener(tell)
        lesson = self._lessons.get(cache) or lesson_for(lane.spec, backbone, dataset, emit)
        if METHODS[lane.spec.method].storage == "head":  # others hold on to the model that they were made with
            self._lessons = {cache: lesson}
        trainer = prepare(lane.spec, backbone, dataset, lane.folder, emit, lesson=lesson, is_rival=True)
        if METHODS[lane.spec.method].storage == "weights":
            own_values(trainer.model)
        trainer.should_stop, trainer.pause_at = self.should_stop, to if to < lane.spec.steps else 0
        lane.n_trainable = sum(parameter.numel() for parameter in trainer.parameters)
        with memory_advice(lane.spec, trainer.needed, self.base.device):
            manifest = trainer.run()
        lane.looks = [Look(step=look["step"], metrics=look["metrics"]) for look in trainer.looks.taken]
        lane.kept_step = trainer.kept_step
        lane.manifest = manifest
        is_there = trainer.progress.evaluated_step >= to if to < lane.spec.steps else manifest is not None
        if not is_there:  # a stop may also come between the step and the look at it
            raise Interrupted

    def _link_cache(self, lane: Lane, cache: str) -> None:
        shared = (self.work / "cache" / cache).absolute()
        shared.mkdir(parents=True, exist_ok=True)
        link = lane.folder / "cache"
        if not link.is_symlink():
            link.symlink_to(shared, target_is_directory=True)

    def forget(self, lane: Lane) -> None:
        """Removes the lane's folder: it was dropped, or its artifact has been taken."""
        shutil.rmtree(lane.folder, ignore_errors=True)

    def forget_cache(self, cache: str) -> None:
        """What was computed once is not needed any more."""
        self._lessons.pop(cache, None)
        shutil.rmtree(self.work / "cache" / cache, ignore_errors=True)


def as_error(error: Exception) -> dict[str, Any]:
    """A failure as it is kept with the cell."""
    if isinstance(error, ColdframeError):
        return error.as_dict()
    failure = ColdframeError(f"{type(error).__name__}: {error}"[:500], hint="The log has the details.",
                             code="unexpected")  # fmt: skip
    return failure.as_dict()
