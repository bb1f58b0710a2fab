"""Every technique on a tiny backbone, with weights that differ enough from the start to change what is answered."""

from __future__ import annotations

from typing import Any

import torch

from ml.backbone import Backbone, load_backbone
from ml.data.rows import Row
from ml.methods import build
from ml.specs import METHODS, TrainSpec
from tests.ml.backbones import tiny_backbone
from tests.ml.running import tiny_spec


def row(number: int, text: str, completion: str) -> Row:
    return Row(number=number, messages=[{"role": "user", "content": text}], completion=completion)


def spec_for(method: str) -> TrainSpec:
    options = {"n_virtual_tokens": 4} if any(f.name == "n_virtual_tokens" for f in METHODS[method].fields) else {}
    return tiny_spec(method, options=options)


def backbone_for(shape: str, method: str, **changes: object) -> Backbone:
    """A tiny backbone as the technique wants it: in 4 bits for QLoRA."""
    backbone = tiny_backbone(shape, **changes)
    if not any(f.name == "double_quantization" for f in METHODS[method].fields):
        return backbone
    return load_backbone(backbone.folder, labels=backbone.labels, quantization="nf4")


def shaken(backbone: Backbone, method: str) -> Any:
    """The technique on the backbone, evaluating, what it trains moved by noise."""
    model = build(backbone, method, spec_for(method).options, 3).eval()
    torch.manual_seed(5)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model
