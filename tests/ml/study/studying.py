"""Studies in the test process: small data sets and specs, the verb `study` run here or in a fork that dies."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ml.__main__ import main
from ml.artifact import artifact_id
from ml.data.rows import Dataset, Row
from ml.specs import METHODS, TrainSpec
from ml.specs.study import TECHNIQUES, StudySpec, study_spec, why_not_studied
from ml.study.base import Base
from ml.study.training import Lane, Trainings, spec_for
from tests.ml.conftest import COLOURS, save_dataset
from tests.ml.running import Recorder, in_a_fork

SHA = {"classification": "a" * 64, "generation": "b" * 64}
NAMES = {"base": "llama", "dataset": "colours@1", "dataset_sha256": SHA["classification"]}
SMALL: dict[str, Any] = {
    **NAMES, "techniques": ["plain", "lora"], "steps": 4, "batch_size": 4, "n_tries": 2, "valid_rows": 8,
    "test_rows": 6, "max_length": 96, "max_tokens": 6, "n_examples": 3, "n_votes": 2,
}  # fmt: skip
PLACED = ("value", "interval", "metrics", "learning_rate", "kept_step", "valid_value", "valid_loss", "curve", "spec",
          "n_trainable", "artifact", "artifact_bytes", "identity", "state", "error", "reason", "n_train_rows",
          "tokens_in", "tokens_prefix", "tokens_out")  # fmt: skip
"""Of a cell, what does not depend on the clock or the machine's memory."""


def small_spec(task: str = "classification", **changes: Any) -> StudySpec:
    return study_spec({**SMALL, **changes}, task=task)


def all_techniques(task: str, family: str) -> list[str]:
    """Without a collection."""
    return [
        name for name, one in TECHNIQUES.items()
        if not one.needs_collection and not why_not_studied(name, task=task, family=family)
    ]  # fmt: skip


def small_rows(task: str, n: int = 40) -> list[dict[str, Any]]:
    """Rows as a data set's folder has them; no question stands twice."""
    pairs = [(thing, colour) for colour, things in COLOURS.items() for thing in things]
    asked = [f"What colour is {'a very ' * (i // 10)}{pairs[i % 10][0]}?" for i in range(n)]
    told = [pairs[i % 10][1] if task == "classification" else f"A {pairs[i % 10][0]}, then." for i in range(n)]
    return [
        {"row": i + 1, "messages": [{"role": "user", "content": question}], "completion": answer}
        for i, (question, answer) in enumerate(zip(asked, told, strict=True))
    ]


def small_folder(folder: Path, task: str) -> Path:
    rows = small_rows(task)
    splits = {"train": rows[:20], "validation": rows[20:30], "test": rows[30:]}
    labels = sorted(COLOURS) if task == "classification" else None
    return save_dataset(folder / SHA[task], splits, task=task, labels=labels)


def lane_spec(technique: str, **changes: Any) -> TrainSpec:
    return spec_for(small_spec(steps=2), technique, seed=17, **{"eval_every": 100, **changes})


def advance(
    base: Base, technique: str, rows: Dataset, work: Path, to: int = 0, *,
    should_stop: Callable[[], bool] = lambda: False, **changes: Any,
) -> Lane:  # fmt: skip
    """A training in `work`, gone on with to step `to` or to the end, as a new process does it."""
    lane = Lane(spec=lane_spec(technique, **changes), folder=work / technique)
    trainings = Trainings(base, work, should_stop=should_stop)
    trainings.advance(lane, rows, to=to or lane.spec.steps, cache=technique, tell=lambda *_: None)
    return lane


def dataset_of(
    train: Sequence[tuple[str, str]], *, validation: Sequence[tuple[str, str]] = (),
    test: Sequence[tuple[str, str]] = (), labels: Sequence[str] = (), kind: str = "",
) -> Dataset:  # fmt: skip
    """A data set of questions and answers, its rows numbered through."""
    splits: dict[str, list[Row]] = {}
    number = 0
    for name, pairs in (("train", train), ("validation", validation), ("test", test)):
        splits[name] = []
        for question, answer in pairs:
            number += 1
            asked = [{"role": "user", "content": question}]
            splits[name].append(Row(number=number, messages=asked, completion=answer))
    task = "classification" if labels else "generation"
    return Dataset(task=task, kind=kind or task, labels=list(labels), sha256="c" * 64, content_sha256="d" * 64,
                   splits=splits)  # fmt: skip


class Studying:
    """Runs `python -m ml study` on the tiny models of `models` and a small data set."""

    def __init__(self, models: Path, folder: Path) -> None:
        self.models, self.folder = models, folder
        self.datasets = {task: small_folder(folder / "data", task) for task in SHA}

    def run(
        self, workdir: Path, *, task: str = "classification", emit: Any = None, embedder: str = "tiny-bert",
        before: Path | None = None, passages: Path | None = None, **changes: Any,
    ) -> tuple[int, Recorder]:  # fmt: skip
        told = emit or Recorder()
        spec = self.folder / f"{workdir.name}.json"
        spec.write_text(json.dumps({**SMALL, "dataset_sha256": SHA[task], **changes}), encoding="utf-8")
        words = ["study", str(spec), "--models", str(self.models), "--dataset", str(self.datasets[task])]
        words += ["--workdir", str(workdir), "--device", "cpu", "--embedder", embedder]
        with pytest.MonkeyPatch.context() as patch:  # a head's own 300 steps are not what is tested here
            patch.setitem(METHODS["head"].defaults, "steps", 12)
            words += ["--before", str(before)] if before else []
            words += ["--passages", str(passages)] if passages else []
            code = main(words, emit=told)
        return code, told

    def done(self, workdir: Path, **values: Any) -> Recorder:
        """A run that must end well."""
        code, emit = self.run(workdir, **values)
        assert code == 0, emit.events[-1]
        return emit

    def until(self, workdir: Path, number: int, fatal: Callable[[dict[str, Any]], bool], **values: Any) -> int:
        """In a fork that sends itself the signal `number` at the first event for which `fatal` holds."""

        def emit(event: str, **told: Any) -> None:
            if fatal({"event": event, **told}):
                os.kill(os.getpid(), number)

        def work() -> None:
            os._exit(self.run(workdir, emit=emit, **values)[0])

        return in_a_fork(work)


def read_cells(out: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((out / "cells").glob("*.json"))}


def read_lines(out: Path, key: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rows" / f"{key}.jsonl").read_text(encoding="utf-8").splitlines()]


def outcome(out: Path) -> dict[str, Any]:
    """What a study found, without times: cells, answers, and the hashes of its artifacts."""
    cells = read_cells(out)
    return {
        "cells": {key: {name: cell.get(name) for name in PLACED} for key, cell in cells.items()},
        "tries": {key: [_timeless(one) for one in cell.get("tries", ())] for key, cell in cells.items()},
        "rows": {key: [_timeless(line) for line in read_lines(out, key)] for key in cells
                 if cells[key]["state"] == "done"},
        "artifacts": {path.name: artifact_id(path) for path in sorted((out / "artifacts").iterdir())},
    }  # fmt: skip


def _timeless(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in ("latency_ms", "first_token_ms", "seconds")}
