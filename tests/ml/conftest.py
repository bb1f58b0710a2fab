"""Fixtures: the folder of a tiny model and tiny data sets, made on the spot. Other shapes: tests/ml/tiny.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ml.tiny import save_tiny_llama as save_tiny_llama
from tests.ml.tiny import tiny_tokenizer as tiny_tokenizer

COLOURS = {
    "blue": ["sky", "sea", "jeans", "ice"],
    "green": ["grass", "leaf", "frog", "moss"],
    "red": ["rose", "tomato"],
}


def save_dataset(
    folder: Path, splits: dict[str, Sequence[dict[str, Any]]], *, task: str, labels: list[str] | None
) -> Path:
    """A data set folder in the form that dataset validation writes."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "schema": 1,
        "task": task,
        "labels": labels,
        "columns": ["prompt", "completion"],
        "mapping": {},
        "splits": {name: len(rows) for name, rows in splits.items()},
        "sha256": folder.name,
    }
    (folder / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    for name, rows in splits.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def _row(number: int, question: str, completion: str) -> dict[str, Any]:
    return {"row": number, "messages": [{"role": "user", "content": question}], "completion": completion}


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread() -> None:
    """Again for each module: a test elsewhere may have set more, and a fork that computes on several hangs."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder holding `tiny-llama`."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_llama(folder / "tiny-llama")
    return folder


@pytest.fixture(scope="session")
def tiny_llama_dir(tiny_models_dir: Path) -> Path:
    return tiny_models_dir / "tiny-llama"


@pytest.fixture(scope="session")
def tiny_dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classification into three colours: 30 training, 10 validation and 10 test rows."""
    pairs = [(thing, colour) for colour, things in COLOURS.items() for thing in things]
    rows = [
        _row(i + 1, f"What colour is the {'very ' * (i % 4)}{pairs[i % 10][0]}?", pairs[i % 10][1]) for i in range(50)
    ]
    splits = {"train": rows[:30], "validation": rows[30:40], "test": rows[40:]}
    folder = tmp_path_factory.mktemp("data") / ("a" * 64)
    return save_dataset(folder, splits, task="classification", labels=sorted(COLOURS))


@pytest.fixture(scope="session")
def tiny_generation_dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Free answers: 24 training, 6 validation and 6 test rows."""
    things = [thing for names in COLOURS.values() for thing in names]
    rows = [_row(i + 1, f"Say {things[i % 10]}.", f"A {things[i % 10]}, then.") for i in range(36)]
    splits = {"train": rows[:24], "validation": rows[24:30], "test": rows[30:]}
    return save_dataset(tmp_path_factory.mktemp("data") / ("b" * 64), splits, task="generation", labels=None)
