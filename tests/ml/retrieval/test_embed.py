"""Embeddings: length one, order kept, the same alone and in a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from ml.errors import ModelError
from ml.retrieval.embed import load_embedder

TEXTS = ["the tree", "a court of the neighbour and the line of rent", "x", "notice " * 40]


def test_vectors_have_length_one_in_the_order_given(tiny_bert_models: Path) -> None:
    embedder = load_embedder(tiny_bert_models, "tiny-bert")
    vectors = embedder.embed(TEXTS, batch_size=2)
    assert (vectors.shape, vectors.dtype) == ((4, 16), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(vectors[[2]], embedder.embed(TEXTS[2:3]), atol=1e-5)


def test_a_text_alone_and_in_a_batch_has_the_same_vector(tiny_bert_models: Path) -> None:
    embedder = load_embedder(tiny_bert_models, "tiny-bert")
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    np.testing.assert_allclose(embedder.embed(TEXTS), alone, atol=1e-5)


def test_the_vector_is_the_mean_over_all_tokens_of_the_text(tiny_bert_models: Path) -> None:
    embedder = load_embedder(tiny_bert_models, "tiny-bert")
    model = AutoModel.from_pretrained(tiny_bert_models / "tiny-bert").eval()
    ids = torch.tensor([embedder.tokenizer.encode("the tree of the court").ids])
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(model(ids).last_hidden_state.mean(1), dim=-1)
    np.testing.assert_allclose(embedder.embed(["the tree of the court"]), expected.numpy(), atol=1e-5)


def test_a_text_that_is_too_long_is_cut_not_refused(tiny_bert_models: Path) -> None:
    embedder = load_embedder(tiny_bert_models, "tiny-bert")
    assert embedder.max_tokens == 64
    assert np.isfinite(embedder.embed(["notice " * 500])).all()


def test_the_length_of_a_text_counts_what_is_cut_off_too(tiny_bert_models: Path) -> None:
    embedder = load_embedder(tiny_bert_models, "tiny-bert")
    lengths = embedder.lengths(["the tree", "notice " * 400])
    assert lengths[0] == len(embedder.tokenizer.encode("the tree").ids) and lengths[1] > embedder.max_tokens


def test_a_missing_model_says_what_to_do(tiny_bert_models: Path) -> None:
    with pytest.raises(ModelError, match="no model 'absent'"):
        load_embedder(tiny_bert_models, "absent")
