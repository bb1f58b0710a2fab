"""The training methods: one module each, found by its name in `ml.specs.METHODS`, imported only when used.

A method module has one function, `build(backbone, options, seed) -> model`: the frozen model with trainable parameters
put on or in front of it (a PEFT model), some of its own unfrozen, or a head beside it. Everything else (loop, loss,
checkpoints, saving) is the same for all methods. `build` also works on a model without storage (the meta device), which
is how memory is planned.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel, TaskType

from ml.backbone import Backbone
from ml.errors import SpecError
from ml.specs import method_named

_TASKS = {"decoder": TaskType.CAUSAL_LM, "encoder": TaskType.SEQ_CLS, "encoder_decoder": TaskType.SEQ_2_SEQ_LM}


def task_type(backbone: Backbone) -> TaskType:
    """What PEFT calls the task of the backbone's family."""
    return _TASKS[backbone.family]


def build(backbone: Backbone, method: str, options: Mapping[str, Any], seed: int) -> Any:
    """The model that `method` trains, its new parameters drawn from `seed`; all others are frozen.

    Raises SpecError for an unknown method or options that the model cannot have. A PEFT adapter records its base by
    name, never by path. Trained parameters are float32, except those of a whole 16-bit model on a GPU, whose optimizer
    keeps 32-bit states.
    """
    row = method_named(method)
    module = importlib.import_module(f"ml.methods.{row.name}")
    torch.manual_seed(seed)
    model = module.build(backbone, options, seed)
    if isinstance(model, PeftModel):
        model.active_peft_config.base_model_name_or_path = backbone.name
    trained = [p for p in model.parameters() if p.requires_grad]
    if len(trained) < len(list(model.parameters())) or backbone.model.device.type == "cpu":
        for parameter in trained:
            parameter.data = parameter.data.float()
    return model


def enable_checkpointing(model: Any, name: str) -> None:
    """Lets each layer of `model` keep its input only. Raises SpecError for a model that cannot."""
    try:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise SpecError(
            f"{name} cannot train with gradient checkpointing.",
            hint="Switch it off, or use fewer rows at once.",
            field="gradient_checkpointing",
        ) from error
