"""Every run of the study: what is asked of the child, and what its events say."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from bench.method_sets import STUDIES
from bench.methods import arguments, fits, is_whole, spec_of, summary
from ml.specs import METHODS

LABELLING, WRITING = STUDIES


def asked(**changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"model": Path("models/tiny"), "quick": False, "rate": [], **changes})


@pytest.mark.parametrize("method", METHODS)
def test_every_technique_gets_a_valid_spec_of_the_same_size(method: str) -> None:
    spec = spec_of(LABELLING, method, asked(), "0" * 64)
    own = METHODS[method].defaults
    assert spec["steps"] == own.get("steps", LABELLING.steps)
    assert spec["batch_size"] == own.get("batch_size", LABELLING.batch_size)
    assert spec["eval_rows"] == LABELLING.n_test


def test_a_learning_rate_can_be_given() -> None:
    method = next(iter(METHODS))
    assert spec_of(LABELLING, method, asked(rate=[(method, 0.5)]), "0" * 64)["learning_rate"] == 0.5


@pytest.mark.parametrize(
    ("words", "whole"),
    [
        ([], True),
        (["--rate", "lora=3e-3"], True),
        (["--quick"], False),
        (["--only", "lora"], False),
        (["--sets", "snips7"], False),
        (["--split", "valid"], False),
        (["--steps", "3"], False),
    ],
)
def test_a_part_of_the_study_does_not_overwrite_the_whole(
    words: list[str], whole: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["bench/methods.py", "--data", str(tmp_path), *words])
    assert is_whole(arguments()) is whole


def test_only_what_fits_the_task_is_run() -> None:
    labelling = {name for name in METHODS if fits(LABELLING, name, "decoder")}
    writing = {name for name in METHODS if fits(WRITING, name, "decoder")}
    assert labelling == {name for name, method in METHODS.items() if "classification" in method.tasks}
    assert writing == {name for name, method in METHODS.items() if "generation" in method.tasks}


def test_training_time_counts_what_is_computed_once_and_leaves_out_the_evaluation(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x" * 100)
    found = {"metrics": {"accuracy": 0.9}, "intervals": {"accuracy": [0.8, 1.0]}, "n_rows": 150, "split": "test"}
    events = [
        {"event": "plan", "total": 7, "at": 3.0},
        {"event": "started", "n_trainable": 11, "at": 8.0},
        {"event": "phase", "at": 8.0},
        {"event": "eval", "subject": "plain", **found, "at": 38.0},
        *({"event": "step", "loss": 1.0, "peak_bytes": 10 * i, "at": 40.0 + 2 * i} for i in range(1, 4)),
        {"event": "eval", "subject": "adapter", **found, "at": 60.0},
        {"event": "finished", "peak_bytes": 99, "at": 61.0},
    ]
    said = summary(events, tmp_path)
    assert (said["train_s"], said["step_s"], said["n_trainable"]) == (13.0, 2.0, 11)
    assert (said["train_peak_bytes"], said["peak_bytes"], said["artifact_bytes"]) == (30, 99, 100)
    assert said["metrics"] == said["plain"]["metrics"] == {"accuracy": 0.9}
