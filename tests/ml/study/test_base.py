"""One base model for all trainings: shared while they run, and bit for bit the same after every technique."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from ml.cli_study import long_lived
from ml.cli_train import prepare
from ml.data.rows import Dataset, read_dataset
from ml.specs import METHODS
from ml.study.base import Base, own_values
from ml.study.drawing import drawn
from tests.ml.running import Recorder
from tests.ml.study.studying import Studying, advance, lane_spec, small_spec

CASES = [*((name, "llama") for name in METHODS), *((name, "t5") for name in ("lora", "output_layers", "full"))]
"""An encoder has nothing that is shared: its classifier is new in every training."""


@pytest.fixture(scope="module", autouse=True)
def as_in_a_study() -> Iterator[None]:
    """Searches for garbage pass over what is loaded."""
    with long_lived():
        yield


@pytest.fixture(scope="module")
def rows(studying: Studying) -> Dataset:
    return drawn(read_dataset(studying.datasets["classification"]), small_spec())


def tensors(model: Any) -> list[torch.Tensor]:
    return [tensor.data for tensor in chain(model.parameters(), model.buffers())]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_training_leaves_the_base_bit_identical(
    name: str, shape: str, study_models: Path, rows: Dataset, tmp_path: Path
) -> None:
    base = Base(study_models / shape, rows, device="cpu")
    base.load(lane_spec(name))
    held = base.plain(lane_spec(name)).model
    before = [tensor.clone() for tensor in tensors(held)]
    files = {path.name: path.read_bytes() for path in (study_models / shape).glob("*.safetensors")}
    lane = advance(base, name, rows, tmp_path / "work")
    assert lane.manifest is not None
    assert lane.n_trainable > 0
    assert all(torch.equal(now, then) for now, then in zip(tensors(held), before, strict=True))
    again = base.plain(lane_spec(name)).model
    assert [tensor.data_ptr() for tensor in tensors(again)] == [tensor.data_ptr() for tensor in tensors(held)]
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert files == {path.name: path.read_bytes() for path in (study_models / shape).glob("*.safetensors")}


@pytest.mark.parametrize("name", [name for name in METHODS if name != "qlora"])
def test_what_is_not_trained_shares_the_bases_memory(
    name: str, study_models: Path, rows: Dataset, tmp_path: Path
) -> None:
    base = Base(study_models / "llama", rows, device="cpu")
    shared = {tensor.data_ptr() for tensor in tensors(base.plain(lane_spec(name)).model)}
    emit: Any = Recorder()
    trainer = prepare(lane_spec(name), base.for_training(lane_spec(name)), rows, tmp_path, emit, is_rival=True)
    if METHODS[name].storage == "weights":
        own_values(trainer.model)
    model = trainer.backbone.model
    assert all(parameter.data_ptr() in shared for parameter in model.parameters() if not parameter.requires_grad)
    assert not any(parameter.data_ptr() in shared for parameter in trainer.parameters)


def test_quantized_weights_are_loaded_once_for_all_tries(study_models: Path, rows: Dataset) -> None:
    base = Base(study_models / "llama", rows, device="cpu")
    one, other = (base.for_training(lane_spec("qlora", learning_rate=rate)).model for rate in (1e-4, 1e-3))
    assert one is not other
    assert [tensor.data_ptr() for tensor in tensors(one)] == [tensor.data_ptr() for tensor in tensors(other)]


def test_a_classifier_of_an_encoder_begins_anew_for_each_training(study_models: Path, rows: Dataset) -> None:
    base = Base(study_models / "bert", rows, device="cpu")
    one, other = (base.for_training(lane_spec("full")).model for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))
    assert not {p.data_ptr() for p in one.parameters()} & {p.data_ptr() for p in other.parameters()}


def test_a_training_counts_the_model_that_it_builds_on(study_models: Path, rows: Dataset) -> None:
    """Only what a training added was told as its memory: a LoRA seemed to need less than its model."""
    base = Base(study_models / "llama", rows, device="cpu")
    assert base.held_bytes(lane_spec("lora")) == base.held_bytes(lane_spec("qlora")) == 0
    base.load(lane_spec("lora"))
    whole = sum(tensor.nbytes for tensor in base.plain(lane_spec("lora")).model.parameters())
    assert base.held_bytes(lane_spec("lora")) == base.held_bytes(lane_spec("full")) == whole
    assert base.held_bytes(lane_spec("qlora")) == 0
    base.for_training(lane_spec("qlora"))
    assert 0 < base.held_bytes(lane_spec("qlora")) < whole
