"""Building a method on a tiny model of any shape, and what the tests do with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

from ml.backbone import Backbone, load_backbone
from ml.methods import build
from ml.specs import METHODS
from tests.ml.tiny import SHAPES, save_tiny, tiny_tokenizer_for

PEFT_METHODS = sorted(name for name, method in METHODS.items() if method.storage == "peft")
DECODERS = sorted(shape for shape, family in SHAPES.items() if family == "decoder")
LABELS = ["blue", "green", "red"]
SMALL: dict[str, dict[str, Any]] = {
    "prompt_tuning": {"n_virtual_tokens": 4},
    "p_tuning": {"n_virtual_tokens": 4, "encoder_width": 16},
    "prefix_tuning": {"n_virtual_tokens": 4},
}
"""Options that make a method tiny."""


_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": _SIZES,
    "roberta": {**_SIZES, "pad_token_id": 0},
    "electra": {**_SIZES, "embedding_size": 16},
    "albert": {**_SIZES, "embedding_size": 16},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
    "mpnet": _SIZES,
}
"""Kinds of encoders and the settings of a tiny one."""


def save_encoder(folder: Path, kind: str) -> Path:
    """A random encoder of `kind` with a classifier."""
    config = AutoConfig.for_model(kind, vocab_size=384, initializer_range=0.15, **ENCODERS[kind])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tiny_tokenizer_for("bert").save_pretrained(folder)
    return folder


class Shapes:
    """Folders of tiny models, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.at = cache(lambda shape: save_tiny(folder / shape, shape))

    def backbone(self, shape: str, method: str = "", **changes: Any) -> Backbone:
        """Loaded as a run of `method` would load it."""
        options: dict[str, Any] = {"quantization": "nf4" if method == "qlora" else "", "labels": LABELS}
        return load_backbone(self.at(shape), **{**options, **changes})

    def built(self, shape: str, method: str, seed: int = 5, **options: Any) -> tuple[Backbone, Any]:
        backbone = self.backbone(shape, method)
        return backbone, built_on(backbone, method, seed, **options)


def built_on(backbone: Backbone, method: str, seed: int = 5, **options: Any) -> Any:
    defaults = {field.name: field.default for field in METHODS[method].fields}
    return build(backbone, method, {**defaults, **SMALL.get(method, {}), **options}, seed)


def on_meta(backbone: Backbone) -> Backbone:
    """The same model without storage."""
    return dataclasses.replace(backbone, model=backbone.model.to("meta"))


def trained(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def forward(model: Any, backbone: Backbone) -> Tensor:
    """Logits for two rows of different length, the shorter one padded."""
    rows = backbone.tokenizer(["the sky is blue", "red"], return_tensors="pt", padding=True, padding_side="right")
    inputs = {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"]}
    if backbone.family == "encoder_decoder":
        inputs["decoder_input_ids"] = torch.tensor([[2, 90, 91], [2, 92, 93]])
    logits: Tensor = model(**inputs).logits
    return logits


def train(model: Any, backbone: Backbone, *, n_steps: int = 2, learning_rate: float = 0.05) -> None:
    """Steps towards other logits than the model gives now; gradients of the last step stay."""
    optimizer = torch.optim.AdamW(trained(model).values(), lr=learning_rate)
    model.train()
    for _ in range(n_steps):
        optimizer.zero_grad()
        logits = forward(model, backbone)
        torch.nn.functional.cross_entropy(logits.flatten(0, -2), _wrong(logits).flatten()).backward()
        optimizer.step()
    model.eval()


def _wrong(logits: Tensor) -> Tensor:
    return logits.detach().argmin(-1)


def plain_peft(backbone: Backbone, folder: Path) -> Any:
    """What someone with peft alone gets from an exported folder."""
    return PeftModel.from_pretrained(backbone.model, str(folder)).eval()


def frozen_copy(tensors: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Each tensor beside a copy of what it holds."""
    return [(tensor, tensor.detach().clone()) for tensor in tensors]
