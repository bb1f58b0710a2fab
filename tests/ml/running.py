"""Running the trainer inside the test process: specs for the tiny model, a recorder of events, forked runs to kill."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml.artifact import Manifest
from ml.cli_train import load_backbone_for, prepare
from ml.data.rows import read_dataset
from ml.specs import TrainSpec, train_spec
from ml.train import Trainer


class Recorder:
    """Stands in for the emitter: keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: str, **values: Any) -> None:
        json.dumps(values)
        self.events.append({"event": event, **values})

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]


def tiny_spec(method: str = "lora", *, dataset_sha256: str = "a" * 64, **changes: Any) -> TrainSpec:
    values: dict[str, Any] = {
        "method": method,
        "base": "tiny-llama",
        "dataset": "colours@1",
        "dataset_sha256": dataset_sha256,
        "steps": 8,
        "batch_size": 6,
        "micro_batch_size": 3,
        "max_length": 96,
        "eval_every": 4,
        "eval_rows": 4,
        "checkpoint_every": 2,
    }
    if method == "prompt_tuning":
        values["options"] = {"n_virtual_tokens": 4}
    return train_spec({**values, **changes})


def tiny_trainer(
    spec: TrainSpec,
    *,
    model: Path,
    dataset: Path,
    workdir: Path,
    emit: Any = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trainer:
    data = read_dataset(dataset)
    backbone = load_backbone_for(spec, model, data, device="cpu")
    trainer = prepare(spec, backbone, data, workdir, emit or Recorder())
    trainer.should_stop = should_stop
    return trainer


def in_a_fork(work: Callable[[], None]) -> int:
    """Runs `work` in a forked child and returns its exit code (negative: killed by that signal)."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(60)
    assert child.exitcode is not None, "the child did not end"
    return child.exitcode


def train_until(spec: TrainSpec, *, signal_number: int, fatal: Callable[[dict[str, Any]], bool], **paths: Path) -> int:
    """Trains in a fork which sends itself `signal_number` at the first event for which `fatal` holds."""

    def emit(event: str, **values: Any) -> None:
        if fatal({"event": event, **values}):
            os.kill(os.getpid(), signal_number)

    def work() -> None:
        tiny_trainer(spec, emit=emit, **paths).run()

    return in_a_fork(work)


def train_whole(spec: TrainSpec, *, emit: Any = None, **paths: Path) -> Manifest:
    manifest = tiny_trainer(spec, emit=emit, **paths).run()
    assert manifest is not None
    return manifest
