"""Looks at the held-back rows: what the untouched model and the adapter make of the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from ml.backbone import Backbone
from ml.data.rows import Dataset
from ml.evaluate.report import measure
from ml.events import Emitter
from ml.forward import plain
from ml.objectives import Objective
from ml.processes import Processes
from ml.specs import TrainSpec


class Stopped(Exception):
    """The run was asked to stop; its state is worth a checkpoint."""


def short_numbers(model: Any) -> Any:
    """Autocast when the frozen model is in bfloat16: what is trained stays in float32."""
    if model.dtype != torch.bfloat16:
        return nullcontext()
    return torch.autocast(model.device.type, dtype=torch.bfloat16)


class Looks:
    """Takes them, in the main process; all processes learn the result."""

    def __init__(
        self, *, spec: TrainSpec, backbone: Backbone, model: Any, dataset: Dataset, objective: Objective, emit: Emitter,
        processes: Processes, should_stop: Callable[[], bool], writes: bool = True,
    ) -> None:  # fmt: skip
        """`writes`: free answers are written and compared; without, their likelihood is all that is measured."""
        self.spec, self.model, self.dataset, self.objective = spec, model, dataset, objective
        self.backbone = backbone
        self.emit, self.processes, self.should_stop, self.writes = emit, processes, should_stop, writes
        self.taken: list[dict[str, Any]] = []
        """Every look so far: step, split, subject, metrics, intervals, n_rows."""

    def take(self, step: int, split: str, subject: str) -> dict[str, float] | None:
        """Metrics on the split's first rows; None when there are none. Raises Stopped when asked to stop meanwhile."""
        n_rows = min(self.spec.eval_rows, len(self.dataset.splits[split]))
        if not n_rows:
            return None
        said: Any = None
        if self.processes.is_main:
            try:
                said = self._measure(step, split, subject, n_rows)
            except Stopped:
                said = "stopped"
        said = self.processes.agree(said)
        if said == "stopped":
            raise Stopped
        self.taken.append(said)
        return dict(said["metrics"])

    def _measure(self, step: int, split: str, subject: str, n_rows: int) -> dict[str, Any]:
        self.emit("phase", text=f"measuring the {'plain model' if subject == 'plain' else 'adapter'} on {split} rows")
        inside = plain(self.model) if subject == "plain" else _as_is(self.model)
        with inside as model, short_numbers(self.backbone.model):
            report = measure(
                self.objective, model, self.dataset, split, n_rows=n_rows, check=self._check, writes=self.writes
            ).as_dict()
        where = {"step": step, "split": split, "subject": subject}
        self.emit("eval", **where, **report)
        return {**where, **{k: v for k, v in report.items() if k != "samples"}}

    def _check(self) -> None:
        if self.should_stop():
            raise Stopped

    @property
    def plain_loss(self) -> float | None:
        """The untouched model's loss on the validation rows."""
        found = [look for look in self.taken if look["subject"] == "plain" and look["split"] == "validation"]
        return float(found[0]["metrics"]["loss"]) if found else None

    def final(self, kept_step: int) -> dict[str, float]:
        """Metrics of the result: on the test rows, else on the validation rows at `kept_step`."""
        ours = [look for look in self.taken if look["subject"] == "adapter"]
        test = [look for look in ours if look["split"] == "test"]
        kept = [look for look in ours if look["step"] == kept_step]
        return dict((test or kept or ours)[-1]["metrics"]) if ours else {}


@contextmanager
def _as_is(model: Any) -> Iterator[Any]:
    yield model
