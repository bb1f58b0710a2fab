"""IA3 (Liu et al. 2022, arXiv 2205.05638, section 3.3): one trained scale for each key, value and inner feature.

The scales start at one, so training starts at the frozen model. Keys, values and the feed-forward output layer, whose
inputs are the inner features, are found by the model's structure and written into the adapter by name: PEFT's own table
lacks many models and has queries in place of keys for some (Qwen2, Gemma, BART). A model whose structure is not
understood gets PEFT's table. Deviation: where queries, keys and values are one layer (GPT-2), queries are scaled too,
as in PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import IA3Config
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEED_FORWARD,
)
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGETS,
)
from transformers.pytorch_utils import Conv1D

from ml.backbone import Backbone
from ml.errors import SpecError
from ml.methods import task_type
from ml.methods.common import attention_layers, linear_layers, put_on, short_names

_KEYS = ("k_proj", "key", "k", "k_lin", "key_proj")
_VALUES = ("v_proj", "value", "v", "v_lin", "value_proj")
_FUSED = ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "qkv")


def build(backbone: Backbone, options: Mapping[str, Any], seed: int) -> Any:
    """The backbone with scales on keys, values and inner features. Draws nothing: `seed` does not matter.

    Raises SpecError when these layers are found neither by structure nor in PEFT's table.
    """
    attention, feed_forward = _keys_and_values(backbone), _feed_forward(backbone)
    kind = str(backbone.model.config.model_type)
    if not (attention and feed_forward):
        if kind not in TARGETS:
            raise _refusal(backbone, "keys and values" if not attention else "feed-forward layers")
        attention, feed_forward = TARGETS[kind], FEED_FORWARD[kind]
    layers = linear_layers(backbone)
    config = IA3Config(
        task_type=task_type(backbone),
        target_modules=list(dict.fromkeys([*attention, *feed_forward])),
        feedforward_modules=list(feed_forward),
        fan_in_fan_out=any(isinstance(layers.get(name), Conv1D) for name in (*attention, *feed_forward)),
    )
    return put_on(backbone, config)


def _keys_and_values(backbone: Backbone) -> list[str]:
    """Full names; empty unless there are as many key as value layers."""
    layers = attention_layers(backbone)
    last = {name: name.rpartition(".")[2] for name in layers}
    keys = [name for name in layers if last[name] in _KEYS]
    values = [name for name in layers if last[name] in _VALUES]
    if keys and len(keys) == len(values):
        return [name for name in layers if last[name] in (*_KEYS, *_VALUES)]
    return [name for name in layers if last[name] in _FUSED]


def _feed_forward(backbone: Backbone) -> list[str]:
    """Full names of the layers in the blocks, outside attention, that bring the inner width back to the model's."""
    width, attention = int(backbone.model.config.hidden_size), set(attention_layers(backbone))
    outside = {
        name: module
        for name, module in linear_layers(backbone).items()
        if name not in attention and any(part.isdigit() for part in name.split("."))
    }
    sizes = {name: _sizes(module) for name, module in outside.items()}
    return [name for name, (n_in, n_out) in sizes.items() if n_out == width != n_in]


def _sizes(module: Any) -> tuple[int, int]:
    """Width of a linear layer's input and output."""
    return (module.nx, module.nf) if isinstance(module, Conv1D) else (module.in_features, module.out_features)


def _refusal(backbone: Backbone, what: str) -> SpecError:
    names = short_names(linear_layers(backbone)) or "none"
    return SpecError(
        f"The {what} of {backbone.name}, a {backbone.model.config.model_type} model, cannot be told from other layers.",
        hint=f"Use LoRA instead, which can name its layers; the linear layers here are: {names}.",
        field="method",
    )
