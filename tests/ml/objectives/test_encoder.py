"""Encoders: the loss and the label scores of each row alone, for the plain classifier and every technique on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ml.data.rows import Dataset, Row, read_dataset
from ml.errors import DataError, ModelError, SpecError
from ml.limits import usable_length
from ml.methods import build
from ml.objectives import objective_for
from ml.specs import METHODS
from tests.ml.backbones import LABELS, tiny_backbone
from tests.ml.objectives.shaken import backbone_for, row, shaken, spec_for

METHOD_NAMES = sorted(m.name for m in METHODS.values() if "encoder" in m.families and m.storage != "head")


ROWS = [row(1, "The sky?", "blue"), row(2, "A very, very ripe tomato on the vine?", "red"), row(3, "x", "green")]


def dataset(rows: list[Row] = ROWS, labels: tuple[str, ...] = LABELS) -> Dataset:
    splits = {"train": rows, "validation": [], "test": rows}
    return Dataset(task="classification", labels=list(labels), sha256="a", content_sha256="b", splits=splits)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_loss_and_scores_equal_each_row_alone(method: str) -> None:
    backbone = backbone_for("bert", method)
    model = shaken(backbone, method)
    objective = objective_for(spec_for(method), backbone, dataset(), 64)
    items = objective.encode(ROWS)
    with torch.no_grad():
        together = objective.nll(model, items)
        alone = [float(objective.nll(model, [item])) for item in items]
        plain = [model(input_ids=torch.tensor([item.ids])).logits.log_softmax(-1)[0] for item in items]
    scores = objective.label_scores(model, ROWS, lambda: None)
    assert together.tolist() == pytest.approx(alone, abs=1e-5)
    for item, loss, row_scores, expected in zip(items, alone, scores, plain, strict=True):
        assert row_scores == pytest.approx(expected.tolist(), abs=1e-5)
        assert loss == pytest.approx(-row_scores[item.label], abs=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "full"])
def test_gradients_reach_everything_that_is_trained(method: str, checkpointing: bool) -> None:
    backbone = tiny_backbone("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = shaken(backbone, method).train()
    objective = objective_for(spec_for(method), backbone, dataset(), 64)
    if checkpointing:
        backbone.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    objective.nll(model, objective.encode(ROWS)).sum().backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(grad is not None for grad in trained.values()), [n for n, g in trained.items() if g is None]


def test_every_label_has_one_prediction() -> None:
    objective = objective_for(spec_for("lora"), tiny_backbone("bert"), dataset(), 64)
    assert objective.label_lengths() == [1, 1, 1]
    assert not objective.measures_plain


def test_scores_follow_the_order_of_the_data_set() -> None:
    """A data set to evaluate on may list fewer labels, in another order, than the classifier was trained on."""
    backbone = tiny_backbone("bert")
    scores = objective_for(spec_for("lora"), backbone, dataset(), 64).label_scores(backbone.model, ROWS, lambda: None)
    other = dataset(ROWS[:2], labels=("red", "blue"))
    turned = objective_for(spec_for("lora"), backbone, other, 64).label_scores(backbone.model, ROWS, lambda: None)
    assert turned == [[s[2], s[0]] for s in scores]


def test_a_label_that_the_classifier_does_not_have_is_named() -> None:
    with pytest.raises(DataError, match="does not have the labels mauve"):
        objective_for(spec_for("lora"), tiny_backbone("bert"), dataset(labels=("red", "mauve")), 64)


def test_labels_without_a_training_row_are_named() -> None:
    objective = objective_for(spec_for("lora"), tiny_backbone("bert"), dataset(ROWS[:1]), 64)
    with pytest.raises(DataError, match="2 of 3 labels have no training row: green, red"):
        objective.encode(ROWS[:1])


def test_a_backbone_without_labels_has_no_classifier() -> None:
    with pytest.raises(ModelError, match="has no classifier"):
        objective_for(spec_for("lora"), tiny_backbone("bert", labels=()), dataset(), 64)


def test_an_encoder_writes_no_answers(tiny_generation_dataset_dir: Path) -> None:
    backbone = tiny_backbone("bert")
    with pytest.raises(SpecError, match="gives labels, not text"):
        objective_for(spec_for("lora"), backbone, read_dataset(tiny_generation_dataset_dir), 64)
    with pytest.raises(SpecError, match="gives labels, not text"):
        objective_for(spec_for("lora"), backbone, dataset(), 64).answers(backbone.model, ROWS, lambda: None)


@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
def test_a_row_as_long_as_the_model_allows_is_computed(method: str) -> None:
    """With virtual tokens, fewer positions are left for the row."""
    backbone, long = tiny_backbone("bert", max_position_embeddings=32), [row(1, "very " * 99, "red")]
    spec = spec_for(method)
    longest = usable_length(spec, backbone.model.config)
    objective = objective_for(spec, backbone, dataset(long, labels=("red",)), longest)
    item = objective.encode(long)[0]
    assert item.n_tokens == longest == {"lora": 32, "prompt_tuning": 28}[method]
    assert objective.nll(build(backbone, method, spec.options, 3), [item]).shape == (1,)
