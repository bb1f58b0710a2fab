"""A tiny random BERT with a WordPiece tokenizer: embeds in milliseconds, no download."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?-#'()[]"
WORDS = ["tree", "court", "line", "neighbour", "the", "of", "and", "rent", "notice"]


def save_tiny_bert(folder: Path, *, max_tokens: int = 64) -> Path:
    """One layer, width 16; every text becomes pieces of letters and a few words."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{c}" for c in LETTERS), *WORDS]
    raw = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    raw.enable_truncation(8)
    raw.enable_padding(length=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(
            BertConfig(
                vocab_size=len(pieces), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                intermediate_size=32, max_position_embeddings=max_tokens,
            )
        )  # fmt: skip
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder holding `tiny-bert`."""
    folder = tmp_path_factory.mktemp("embedders")
    save_tiny_bert(folder / "tiny-bert")
    return folder
