"""Blocks, norm and output layer are found in every supported shape."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification, RobertaConfig
from transformers import RobertaForSequenceClassification as Roberta

from ml.anatomy import answering_stack, encoder_stack, output_modules
from ml.errors import ModelError
from tests.ml.backbones import tiny_backbone
from tests.ml.tiny import SHAPES

WITHOUT_NORM = {"bert", "bart"}


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_the_blocks_and_the_norm_behind_them_are_found(shape: str) -> None:
    stack = answering_stack(tiny_backbone(shape).model)
    assert stack.depth == 2
    assert (stack.norm is None) == (shape in WITHOUT_NORM)


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_only_an_encoder_decoder_has_an_encoder_beside_it(shape: str) -> None:
    model = tiny_backbone(shape).model
    beside = encoder_stack(model)
    assert (beside is not None) == (SHAPES[shape] == "encoder_decoder")
    if beside is not None:
        assert beside.blocks is not answering_stack(model).blocks


def test_an_encoder_answers_through_its_pooler_and_classifier() -> None:
    model = tiny_backbone("bert").model
    assert output_modules(model) == [model.bert.pooler, model.classifier]


def test_classifiers_of_the_roberta_and_distilbert_kind_are_found() -> None:
    small = {"vocab_size": 30, "num_labels": 3}
    roberta = Roberta(RobertaConfig(hidden_size=8, num_hidden_layers=3, num_attention_heads=2,
                                    intermediate_size=8, **small))  # fmt: skip
    distilbert = DistilBertForSequenceClassification(DistilBertConfig(dim=8, n_layers=3, n_heads=2, hidden_dim=8,
                                                                      **small))  # fmt: skip
    assert answering_stack(roberta).depth == answering_stack(distilbert).depth == 3
    assert output_modules(roberta) == [roberta.classifier]
    assert output_modules(distilbert) == [distilbert.pre_classifier, distilbert.classifier]


def test_an_encoder_without_a_classifier_has_no_output_layer() -> None:
    with pytest.raises(ModelError, match="BertModel has no output layer"):
        output_modules(tiny_backbone("bert", labels=()).model)


def test_two_stacks_side_by_side_are_refused() -> None:
    body = nn.Module()
    body.left = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    body.right = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    model = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=False), base_model=body)
    with pytest.raises(ModelError, match="2 lists of blocks"):
        answering_stack(model)
