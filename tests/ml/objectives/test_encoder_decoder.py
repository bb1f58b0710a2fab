"""Encoder-decoders: losses, label scores and answers of each row alone, equal to what PEFT's own forward gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from ml.backbone import Backbone
from ml.data.rows import Dataset
from ml.errors import DataError
from ml.objectives import objective_for
from ml.specs import METHODS
from tests.ml.backbones import tiny_backbone
from tests.ml.objectives.shaken import backbone_for, row, shaken, spec_for

METHOD_NAMES = sorted(m.name for m in METHODS.values() if "encoder_decoder" in m.families)
LABELS = ["blue", "bluish green", "red"]


ROWS = [row(1, "The sky?", "blue"), row(2, "A ripe tomato?", "red"), row(3, "The shallow sea?", "bluish green")]


def dataset(task: str = "classification") -> Dataset:
    splits = {"train": ROWS, "validation": [], "test": ROWS}
    labels = LABELS if task == "classification" else []
    return Dataset(task=task, labels=labels, sha256="a", content_sha256="b", splits=splits)


def theirs(model: Any, backbone: Backbone, ids: list[int], target: list[int]) -> torch.Tensor:
    """Log probabilities [T] of a target by the model's own forward on the row alone."""
    start = backbone.model.config.decoder_start_token_id
    given = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    logits = model(**given, decoder_input_ids=torch.tensor([[start, *target[:-1]]])).logits[0]
    return logits.log_softmax(-1).gather(1, torch.tensor(target)[:, None])[:, 0]


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("shape", ["t5", "bart"])
def test_losses_and_label_scores_equal_each_row_alone(shape: str, method: str) -> None:
    backbone = backbone_for(shape, method)
    model = shaken(backbone, method)
    objective = objective_for(spec_for(method), backbone, dataset(), 64)
    items = objective.encode(ROWS)
    scores = objective.label_scores(model, ROWS, lambda: None)
    with torch.no_grad():
        together = objective.nll(model, items)
        alone = torch.cat([theirs(model, backbone, item.ids, item.target) for item in items])
    assert torch.allclose(together, -alone, atol=1e-5)
    assert objective.label_lengths() == [len(items[0].target), len(items[2].target), len(items[1].target)]
    for place, item, row_scores in zip((0, 2, 1), items, scores, strict=True):
        with torch.no_grad():
            expected = float(theirs(model, backbone, item.ids, item.target).sum())
        assert row_scores[place] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("shape", ["t5", "bart"])
def test_answers_are_what_generate_writes_for_each_row_alone(shape: str, method: str) -> None:
    backbone = backbone_for(shape, method)
    model = shaken(backbone, method)
    objective = objective_for(spec_for(method), backbone, dataset("generation"), 64)
    items, answers = objective.encode(ROWS), objective.answers(model, ROWS, lambda: None)
    most = max(item.n_targets for item in items) * 3 // 2
    for item, (text, loss) in zip(items, answers, strict=True):
        ids = torch.tensor([item.ids])
        settings = GenerationConfig(num_beams=1, do_sample=False, max_new_tokens=most)
        written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        assert text == backbone.tokenizer.decode(written[0], skip_special_tokens=True).strip()
        with torch.no_grad():
            alone = -theirs(model, backbone, item.ids, item.target)
        assert loss == pytest.approx(float(alone.mean()), abs=1e-5)


def test_a_forced_first_token_is_kept_and_forced_lengths_are_not() -> None:
    backbone = tiny_backbone("bart")
    backbone.model.generation_config.update(forced_bos_token_id=40, min_length=30, no_repeat_ngram_size=1, num_beams=4)
    objective = objective_for(spec_for("lora"), backbone, dataset("generation"), 64)
    first = backbone.tokenizer.decode([40])
    for text, _ in objective.answers(backbone.model, ROWS, lambda: None):
        assert text.startswith(first)
        assert len(backbone.tokenizer(text, add_special_tokens=False)["input_ids"]) < 30


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "p_tuning", "full"])
@pytest.mark.parametrize("shape", ["t5", "bart"])
def test_gradients_are_those_of_the_models_own_loss(shape: str, method: str, checkpointing: bool) -> None:
    backbone = tiny_backbone(shape, **({"dropout_rate": 0.0} if shape == "t5" else {"dropout": 0.0}))
    model = shaken(backbone, method).train()
    objective = objective_for(spec_for(method), backbone, dataset(), 64)
    items, trained = objective.encode(ROWS), [p for p in model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(
        -sum(theirs(model, backbone, i.ids, i.target).sum() for i in items), trained, allow_unused=True
    )
    if checkpointing:
        backbone.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    found = torch.autograd.grad(objective.nll(model, items).sum(), trained, allow_unused=True)
    for ours, wanted in zip(found, expected, strict=True):
        assert (ours is None) == (wanted is None)
        assert ours is None or torch.allclose(ours, wanted, atol=1e-4, rtol=1e-4)


def test_many_labels_are_scored_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone("t5")
    objective = objective_for(spec_for("lora"), backbone, dataset(), 64)
    whole = objective.label_scores(backbone.model, ROWS, lambda: None)
    monkeypatch.setattr("ml.objectives.encoder_decoder.MOST_LOGITS", 1)
    pieces = objective.label_scores(backbone.model, ROWS, lambda: None)
    assert [pytest.approx(scores, abs=1e-4) for scores in whole] == pieces


def test_the_encoder_reads_each_row_once_for_all_labels() -> None:
    backbone, calls = tiny_backbone("t5"), []
    backbone.model.get_encoder().register_forward_hook(lambda *_: calls.append(1))
    objective_for(spec_for("lora"), backbone, dataset(), 64).label_scores(backbone.model, ROWS, lambda: None)
    assert len(calls) == 1


def test_an_answer_that_cannot_be_encoded_is_named_by_its_row() -> None:
    objective = objective_for(spec_for("lora"), tiny_backbone("t5"), dataset(), 64)
    with pytest.raises(DataError, match="Row 7: The answer is empty"):
        objective.encode([row(7, "x", " ")])
