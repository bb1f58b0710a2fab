"""Every kind of model that is let in is computed rightly; every other is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

from ml.backbone import load_backbone
from ml.errors import ModelError
from ml.families import family_of, n_positions, reads_plain_text
from ml.limits import usable_length
from ml.objectives import objective_for
from tests.ml.backbones import LABELS
from tests.ml.objectives import test_encoder, test_encoder_decoder
from tests.ml.objectives.shaken import row, spec_for
from tests.ml.tiny import SHAPES, save_tiny, tiny_tokenizer_for

_ENCODER = {
    "vocab_size": 384, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "initializer_range": 0.15,
}  # fmt: skip
_DISENTANGLED = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
ENCODERS: dict[str, dict[str, Any]] = {
    "roberta": {},
    "xlm-roberta": {},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
    "electra": {"embedding_size": 32},
    "deberta": _DISENTANGLED,
    "deberta-v2": _DISENTANGLED,
    "mpnet": {},
    "albert": {"embedding_size": 16},
}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}
_BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64,
    "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "max_position_embeddings": 64, "init_std": 0.15,
}  # fmt: skip
ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("mt5", "umt5"), _T5),
    **dict.fromkeys(("mbart", "pegasus", "marian", "m2m_100", "blenderbot", "blenderbot-small", "plbart"), _BART),
}


def save_kind(folder: Path, kind: str) -> Path:
    """A random tiny model of any kind, as transformers makes it."""
    is_encoder = kind in ENCODERS
    tokenizer = tiny_tokenizer_for("bert" if is_encoder else "bart")
    ids = {"pad_token_id": tokenizer.pad_token_id}
    if not is_encoder:
        ids |= {"decoder_start_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
        ids |= {"bos_token_id": tokenizer.bos_token_id, "forced_eos_token_id": None}
    values = {**_ENCODER, **ENCODERS[kind]} if is_encoder else {"vocab_size": 384, **ENCODER_DECODERS[kind]}
    config = AutoConfig.for_model(kind, **values, **ids)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        (AutoModel if is_encoder else AutoModelForSeq2SeqLM).from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", [*ENCODERS, *ENCODER_DECODERS])
def test_rows_of_every_kind_are_computed_as_alone_up_to_the_last_position(kind: str, tmp_path: Path) -> None:
    folder, theirs = save_kind(tmp_path / "x", kind), test_encoder if kind in ENCODERS else test_encoder_decoder
    backbone = load_backbone(folder, labels=LABELS)
    spec = spec_for("lora")
    longest = usable_length(spec, backbone.model.config)
    objective = objective_for(spec, backbone, theirs.dataset(), longest)
    items = objective.encode([*theirs.ROWS, row(9, "very " * 99, theirs.ROWS[0].completion)])
    with torch.no_grad():
        together = objective.nll(backbone.model, items)
        alone = torch.cat([objective.nll(backbone.model, [item]) for item in items])
    assert items[-1].n_tokens == longest
    assert torch.allclose(together, alone, atol=5e-5)


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_a_kind_that_says_it_is_something_else_is_refused(kind: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "x", kind)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "is_encoder_decoder": False}))
    with pytest.raises(ModelError, match=f"x is a '{kind}' model, which cannot be used"):
        family_of(folder)


@pytest.mark.parametrize("kind", ["whisper", "encoder-decoder", "vit", "prophetnet"])
def test_other_kinds_are_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "is_encoder_decoder": True}))
    with pytest.raises(ModelError, match=f"'{kind}' model, which cannot be used"):
        family_of(tmp_path)


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_only_decoders_read_a_chat(shape: str, tmp_path: Path) -> None:
    assert reads_plain_text(save_tiny(tmp_path / "x", shape)) == (SHAPES[shape] != "decoder")


@pytest.mark.parametrize(
    ("config", "n"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 0}, 512),
        ({"model_type": "t5"}, None),
    ],
)
def test_positions_are_those_that_tokens_can_have(config: dict[str, Any], n: int | None) -> None:
    assert n_positions(SimpleNamespace(**config)) == n
