"""Seconds of a study's techniques: counted work by how often the study's schedule asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ml.cli_train import dtype_for
from ml.engine.beginnings import MIN_TOKENS
from ml.engine.choices import MOST_NODES, ROUND, SMALL
from ml.engine.engine import OWN_SLOTS
from ml.plan.counted import Pass, TrainingWork, pass_work, training_work
from ml.plan.simulate import Setting
from ml.plan.steps import Rows
from ml.plan.work import Work
from ml.specs import METHODS, TrainSpec
from ml.specs.study import StudySpec
from ml.study.budget import Cost
from ml.study.figures import DataFigures, Prompted
from ml.study.halving import n_kept, rungs
from ml.study.measuring import N_SLOTS, PREFILL_TOKENS
from ml.study.speed import Speed
from ml.study.training import spec_for

START_S = 0.3
"""Of one stretch of a training: modules, optimizer, checkpoint; without what goes by the number of rows or weights."""
ENCODE_S = 3e-4
"""Of a row that is turned into tokens."""
READ_UNSURE, READ_SURE = 0.6, 0.25
"""Of the tokens of a set of labels that is too large to be read whole: what an untouched and a trained model need."""
STEPS_TO_LABEL, STEPS_TO_ANSWER = 32, 0.75
"""What a chain of thought takes: tokens where it ends in a label, else of the longest answer."""
RAMBLING = 0.9
"""Of the longest answer: what a model writes that was not shown any answer."""
LONGER = 1.3
"""Of the training rows' answers: what a model writes that was."""
_STATES = 3
"""Numbers in a checkpoint for each trained one: itself and the optimizer's two."""
_OPTIMIZER_BYTES = 40
"""Moved for each trained number in a step: the optimizer's numbers read and written, the gradient clipped."""


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A training of a search."""

    end: int
    """The step at which it is dropped; the last for the one that is kept."""
    n_stretches: int
    """Between which it lies on the disk."""


def lanes(n_tries: int, steps: int) -> list[Lane]:
    """The trainings of a search, the one that is kept first."""
    places = rungs(n_tries, steps)
    found, n = [Lane(end=steps, n_stretches=len(places) + 1)], n_tries
    for number, rung in enumerate(places, start=1):
        left = 1 if rung == places[-1] else n_kept(n)
        found += [Lane(end=rung, n_stretches=number)] * (n - left)
        n = left
    return found


def n_looks(n_tries: int, steps: int, end: int) -> int:
    """At the validation rows, until step `end` of a training that looks at every rung and in between."""
    every, *_ = rungs(max(3, n_tries), steps)
    at = {*range(every, end + 1, every), *(rung for rung in rungs(n_tries, steps) if rung <= end), end}
    return len(at)


class Times:
    def __init__(
        self, spec: StudySpec, *, config: Any, family: str, device: str, data: DataFigures, speed: Speed
    ) -> None:
        self.spec, self.config, self.family, self.device = spec, config, family, device
        self.data, self.speed = data, speed
        self.n_train = min(data.n_train, spec.train_rows or data.n_train)
        self.n_valid, self.n_test = min(data.n_valid, spec.valid_rows), min(data.n_test, spec.test_rows)

    def cost(self, name: str) -> Cost:
        """Without calibration."""
        if name not in METHODS:
            return Cost(search_s=0.0, train_s=0.0, measure_s=self._asked_s(name))
        return _Training(self, name).cost()

    def share_s(self, name: str, share: float) -> float:
        """A cell with a smaller share of the training rows."""
        if name not in METHODS:
            return self._asked_s(name)
        return _Training(self, name, share).share_s()

    def train_spec(self, name: str) -> TrainSpec:
        return spec_for(self.spec, name, seed=self.spec.seeds[0])

    def setting(self, name: str) -> Setting:
        spec, data = self.train_spec(name), self.data
        rows = Rows(
            longest=max(2, round(data.mean)), n_shared=min(data.n_shared, max(0, round(data.mean) - 2)),
            n_targets=max(1, min(round(data.n_targets), round(data.mean) - 1)), label_tokens=data.label_tokens,
        )  # fmt: skip
        labels = tuple(f"label {number}" for number in range(len(data.label_tokens)))
        return Setting(spec=spec, config=self.config, family=self.family, device=self.device,
                       dtype=dtype_for(spec, self.device), labels=labels, rows=rows)  # fmt: skip

    def _asked_s(self, name: str) -> float:
        plain = next(n for n, m in METHODS.items() if self.family in m.families and m.storage == "peft")
        if self.family != "decoder":
            return self.objective_s(training_work(self.setting(plain)))
        full = next(n for n, method in METHODS.items() if method.form == "own_backbone" and not method.fields)
        asked = self.data.asked[name]
        written = 0.0 if self.data.label_tokens and not asked.has_steps else self._written(asked, name)
        return self.engine_s(self.setting(full), asked, written=written)

    def _written(self, asked: Prompted, name: str) -> float:
        """Tokens of an answer."""
        most = self.spec.max_tokens
        if asked.has_steps:
            return min(most, STEPS_TO_LABEL if self.data.label_tokens else STEPS_TO_ANSWER * most)
        learnt = min(most, LONGER * self.data.n_targets)
        return learnt if name.startswith("few_shot") else max(learnt, RAMBLING * most)

    def objective_s(self, work: TrainingWork) -> float:
        """The test rows answered by the objective itself, as models are measured that no engine serves."""
        found = self.speed.seconds(work.look, "look")
        if not self.data.label_tokens:
            written = min(256.0, LONGER * self.data.n_targets)
            found += written * self.speed.seconds(work.writing, "write")
        return self.n_test * (found + ENCODE_S)

    def engine_s(
        self, setting: Setting, asked: Prompted, *, written: float, n_virtual: int = 0, n_slots: int = N_SLOTS,
        shares: bool = True, has_head: bool = False, read: float = READ_UNSURE,
    ) -> float:  # fmt: skip
        """The test rows answered by the engine: prompts read behind what they share, labels read, answers written."""
        n_rows = self.n_test * asked.n_samples
        kept = asked.n_shared if shares and asked.n_shared >= MIN_TOKENS else 0
        own, past = max(1, round(asked.n_tokens) - kept), n_virtual + kept
        at_once = max(1, min(n_slots, n_rows, PREFILL_TOKENS // own))
        reading = pass_work(setting, Pass(n=at_once, n_past=past, n_new=own, n_kept=1 if written else 0))
        seconds = (n_rows + 2 * kept / own) / at_once * self.speed.seconds(reading, "read")
        past += own
        if written:
            at_once = max(1, min(n_slots, n_rows))
            writing = pass_work(setting, Pass(n=at_once, n_past=past + round(written / 2), n_new=1, n_kept=1))
            seconds += written * n_rows / at_once * self.speed.seconds(writing, "write")
        elif self.data.n_nodes and not has_head:
            is_small = self.data.n_nodes <= SMALL
            n_nodes = self.data.n_nodes if is_small else ROUND
            n_rounds = 1.0 if is_small else max(1.0, read * self.data.n_nodes / ROUND)
            at_once = max(1, min(n_slots, n_rows, 4 * MOST_NODES // n_nodes))
            scoring = pass_work(setting, Pass(n=at_once, n_past=past, n_new=n_nodes, n_kept=n_nodes))
            seconds += n_rounds * n_rows / at_once * self.speed.seconds(scoring, "read")
        return seconds + n_rows * ENCODE_S


class _Training:
    """One technique that is trained."""

    def __init__(self, times: Times, name: str, share: float = 1.0) -> None:
        self.times, self.method, self.spec = times, METHODS[name], times.train_spec(name)
        self.setting = times.setting(name)
        self.work = training_work(self.setting)
        self.n_train = max(1, round(share * times.n_train))
        self.n_bytes = 4 * self.work.n_trained
        speed, is_head = times.speed, self.method.storage == "head"
        moved = Work(moved=_OPTIMIZER_BYTES * self.work.n_trained)
        self.step_s = speed.seconds(self.work.step * self.spec.batch_size + moved, "train")
        looked = speed.seconds(self.work.look * times.n_valid, "look") + times.n_valid * ENCODE_S
        self.once_s = speed.seconds(self.work.before * self.n_train, "look") + (looked if is_head else 0.0)
        self.look_s = (0.0 if is_head else looked) + speed.file_s(self.n_bytes)

    def lane_s(self, lane: Lane) -> float:
        speed, n_tries = self.times.speed, self.times.spec.n_tries
        is_kept = lane.end == self.spec.steps
        pauses = lane.n_stretches - (1 if is_kept else 0)
        started = lane.n_stretches * (START_S + ENCODE_S * self.n_train) + 2 * pauses * speed.file_s(
            _STATES * self.n_bytes
        )
        ended = speed.file_s(3 * self.n_bytes + _STATES * self.n_bytes) if is_kept else 0.0
        looks = n_looks(n_tries, self.spec.steps, lane.end) * self.look_s
        return started + lane.end * self.step_s + looks + ended

    def cost(self) -> Cost:
        whole = self.lane_s(Lane(end=self.spec.steps, n_stretches=1))
        searched = sum(map(self.lane_s, lanes(self.times.spec.n_tries, self.spec.steps))) - whole
        return Cost(search_s=self.once_s + searched, train_s=whole, measure_s=self.measure_s())

    def share_s(self) -> float:
        return self.once_s + self.lane_s(Lane(end=self.spec.steps, n_stretches=1)) + self.measure_s()

    def measure_s(self) -> float:
        times, method = self.times, self.method
        if times.family != "decoder":
            return times.objective_s(self.work)
        is_head, is_own = method.storage == "head", method.form == "own_backbone"
        asked = times.data.asked["plain"]
        written = 0.0 if times.data.label_tokens else min(times.spec.max_tokens, LONGER * times.data.n_targets)
        n_virtual = int(self.spec.options.get("n_virtual_tokens", 0))
        seconds = times.engine_s(
            self.setting, asked, written=written, n_virtual=n_virtual, n_slots=OWN_SLOTS if is_own else N_SLOTS,
            shares=not is_head, has_head=is_head, read=READ_SURE,
        )  # fmt: skip
        return seconds + times.speed.file_s(self.n_bytes)
