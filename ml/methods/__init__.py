"""The training methods: one module each, found by its name in `ml.specs.METHODS`, imported only when used.

A method module has one function, `build(backbone, options, seed) -> PeftModel`: the frozen model with trainable
parameters put on or in front of it. Everything else (loop, loss, checkpoints, saving) is the same for all methods.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch

from ml.backbone import Backbone
from ml.specs import method_named


def build(backbone: Backbone, method: str, options: Mapping[str, Any], seed: int) -> Any:
    """`backbone.model` as a PEFT model of `method`, its trainable part drawn from `seed`.

    Raises SpecError for an unknown method. The adapter's base is recorded by name, never by path.
    """
    module = importlib.import_module(f"ml.methods.{method_named(method).name}")
    torch.manual_seed(seed)
    model = module.build(backbone, options, seed)
    model.active_peft_config.base_model_name_or_path = backbone.name
    return model
