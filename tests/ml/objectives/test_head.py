"""A head learns from features that were computed once, and answers as logistic regression on them would."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ml.checkpoint import trainables
from ml.data.rows import Dataset, read_dataset
from ml.errors import DataError, SpecError
from ml.evaluate.report import measure
from ml.forward import plain
from ml.heads import HeadModel
from ml.methods import head
from ml.objectives import objective_for
from ml.objectives.head import HeadObjective
from ml.specs import train_spec
from tests.ml.backbones import tiny_backbone
from tests.ml.running import Recorder


def made(dataset: Dataset, shape: str = "llama", pooling: str = "mean", **changes: Any) -> tuple[Any, HeadModel]:
    """An objective with its model."""
    backbone = replace(tiny_backbone(shape), **changes)
    spec = train_spec({"method": "head", "base": "tiny", "dataset": "colours@1", "dataset_sha256": "a" * 64,
                       "options": {"pooling": pooling}})  # fmt: skip
    model: HeadModel = head.build(backbone, spec.options, 0)
    return objective_for(spec, backbone, dataset, 96), model


def never() -> None:
    """Nobody asked to stop."""


@pytest.fixture(scope="module")
def dataset(tiny_dataset_dir: Path) -> Dataset:
    return read_dataset(tiny_dataset_dir)


def taught(dataset: Dataset, workdir: Path, shape: str, pooling: str = "mean") -> tuple[HeadObjective, HeadModel]:
    """After 150 steps of Adam over all rows."""
    objective, model = made(dataset, shape, pooling)
    items = objective.encode(dataset.splits["train"])
    objective.prepare(model, items, workdir, Recorder(), never)
    optimizer = torch.optim.Adam(trainables(model).values(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        objective.nll(model, items).mean().backward()
        optimizer.step()
    return objective, model


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("shape", ["llama", "gpt2", "bert"])
def test_a_head_learns_the_labels_of_rows_like_those_it_saw(
    shape: str, pooling: str, dataset: Dataset, tmp_path: Path
) -> None:
    objective, model = taught(dataset, tmp_path, shape, pooling)
    report = measure(objective, model, dataset, "test", n_rows=10)
    assert report.metrics["accuracy"] >= 0.8


def test_the_frozen_model_runs_once_over_the_training_rows(dataset: Dataset, tmp_path: Path) -> None:
    objective, model = made(dataset)
    items = objective.encode(dataset.splits["train"])
    told = Recorder()
    objective.prepare(model, items, tmp_path, told, never)
    assert told.events[-1] == {
        "event": "progress",
        "done": 30,
        "total": 30,
        "text": "computing the frozen model's features, once",
    }
    model.backbone_model.register_forward_pre_hook(_refuse)
    model.backbone_model.base_model.register_forward_pre_hook(_refuse)
    assert objective.nll(model, items[:5]).shape == (5,)


def _refuse(*_: Any) -> None:
    raise RuntimeError("the frozen model ran again")


def test_measured_rows_are_computed_once(dataset: Dataset, tmp_path: Path) -> None:
    objective, model = made(dataset)
    first = objective.label_scores(model, dataset.splits["test"], never)
    model.backbone_model.base_model.register_forward_pre_hook(_refuse)
    assert objective.label_scores(model, dataset.splits["test"], never) == first
    assert objective.label_scores(model, [], never) == []


def test_the_training_features_are_standardized(dataset: Dataset, tmp_path: Path) -> None:
    objective, model = made(dataset)
    items = objective.encode(dataset.splits["train"])
    objective.prepare(model, items, tmp_path, Recorder(), never)
    kept = torch.cat([objective._kept.row("features", number) for number in range(len(items))])
    standard = (kept - model.mean) / model.std
    assert torch.allclose(standard.mean(0), torch.zeros(32), atol=1e-5)
    assert torch.allclose(standard.std(0, correction=0), torch.ones(32), atol=1e-4)


def test_a_resumed_run_has_the_same_features_bit_by_bit_read_or_computed_again(
    dataset: Dataset, tmp_path: Path
) -> None:
    losses = []
    for gone in (False, False, True):
        if gone:
            shutil.rmtree(tmp_path / "cache")
        objective, model = made(dataset)
        items = objective.encode(dataset.splits["train"])
        objective.prepare(model, items, tmp_path, Recorder(), never)
        with torch.no_grad():
            model.weight.copy_(torch.linspace(-1, 1, 96).view(3, 32))
        losses.append(objective.nll(model, items))
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


def test_scores_are_log_probabilities_in_the_data_sets_order(dataset: Dataset, tmp_path: Path) -> None:
    objective, model = taught(dataset, tmp_path, "llama")
    turned = replace(dataset, labels=dataset.labels[::-1])
    other = HeadObjective(backbone=objective.backbone, dataset=turned, max_length=96)
    scores = torch.tensor(objective.label_scores(model, dataset.splits["test"], never))
    assert torch.allclose(scores.exp().sum(1), torch.ones(10))
    assert torch.equal(torch.tensor(other.label_scores(model, dataset.splits["test"], never)), scores.flip(1))
    assert objective.label_lengths() == [1, 1, 1]


def test_the_untouched_decoder_is_measured_by_scoring_labels_as_answers(dataset: Dataset, tmp_path: Path) -> None:
    objective, model = made(dataset)
    assert objective.measures_plain
    with plain(model) as untouched:
        assert untouched is model.backbone_model
        scores = objective.label_scores(untouched, dataset.splits["test"], never)
    assert torch.allclose(torch.tensor(scores).exp().sum(1), torch.ones(10), atol=1e-6)
    assert not made(dataset, "bert")[0].measures_plain


def test_a_label_without_a_training_row_is_refused(dataset: Dataset) -> None:
    rows = [row for row in dataset.splits["train"] if row.completion != "red"]
    lacking = replace(dataset, splits={**dataset.splits, "train": rows})
    with pytest.raises(DataError, match="1 of 3 labels have no training row: red"):
        made(lacking)[0].encode(rows)


def test_labels_that_the_head_does_not_have_are_refused(dataset: Dataset) -> None:
    with pytest.raises(DataError, match="does not have the labels red"):
        made(dataset, labels=("blue", "green"))


def test_a_head_without_labels_or_on_a_decoders_first_token_is_refused(dataset: Dataset) -> None:
    with pytest.raises(SpecError, match="at least two labels"):
        head.build(tiny_backbone("llama", labels=()), {"pooling": "mean"}, 0)
    with pytest.raises(SpecError, match="has seen nothing of the row"):
        made(dataset, "llama", "first")


def test_a_long_prompt_keeps_its_end(dataset: Dataset) -> None:
    objective, _ = made(dataset)
    whole = objective.encode(dataset.splits["train"])[0]
    objective.max_length = whole.n_tokens - 4
    cut = objective.encode(dataset.splits["train"])[0]
    assert (cut.ids, cut.n_cut) == (whole.ids[4:], 4)
    assert cut.n_targets == 1


def test_a_head_writes_no_text(dataset: Dataset) -> None:
    objective, model = made(dataset)
    with pytest.raises(SpecError, match="cannot write free text"):
        objective.answers(model, dataset.splits["test"], never)
