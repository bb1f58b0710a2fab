"""Whether a stranger's tensors fit the server's base model: names and shapes on the meta device, then the numbers.

Guarantees: no weight of the base model is read and none of the adapter's before its name, shape and type were found
right; NaN and infinity are refused. Says nothing about how good the adapter is.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from ml.backbone import Backbone
from ml.errors import ArtifactError, ModelError
from ml.foreign.config import ForeignConfig, Layers
from ml.foreign.header import TensorInfo
from ml.methods import build
from ml.specs import METHODS

FLOATS = ("F64", "F32", "F16", "BF16")
_PREFIX = "base_model.model."
_CLASSES: dict[str, Any] = {
    "decoder": AutoModelForCausalLM,
    "encoder": AutoModelForSequenceClassification,
    "encoder_decoder": AutoModelForSeq2SeqLM,
}


def meta_backbone(folder: Path, *, family: str, labels: Sequence[str] = ()) -> Backbone:
    """The base model's shape without its weights (every parameter on the meta device). Raises ModelError."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if labels:
            config.num_labels = len(labels)
        with torch.device("meta"):
            model = _CLASSES[family].from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"The model {folder.name} cannot be read: {error}.", field="base") from error
    return Backbone(model=model.eval(), tokenizer=None, fingerprint="", family=family, labels=tuple(labels),
                    name=folder.name, folder=folder)  # fmt: skip


def layers_of(model: Any) -> Layers:
    """The linear layers of `model` and its other modules, by name; the model itself is left out."""
    named = [(name, module) for name, module in model.named_modules() if name]
    return Layers(
        linear=frozenset(name for name, module in named if isinstance(module, nn.Linear | Conv1D)),
        others=frozenset(name for name, module in named if not isinstance(module, nn.Linear | Conv1D)),
        transposed=any(isinstance(module, Conv1D) for _, module in named),
    )


def expected_tensors(backbone: Backbone, config: ForeignConfig) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """What PEFT would save for `config` on a meta backbone: shapes by name, and its configuration as a dict."""
    try:
        with torch.device("meta"):
            shaped = _shaped(backbone, config)
            state = get_peft_model_state_dict(shaped, save_embedding_layers=False)
    except (ValueError, TypeError, KeyError, NotImplementedError, AttributeError, RuntimeError) as error:
        raise ArtifactError(
            f"The adapter does not go with this base model: {str(error)[:200]}",
            hint="Choose the base model that it was trained on.", field="base",
        ) from error  # fmt: skip
    full = shaped.active_peft_config.to_dict()
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in full.items()}
    return {name: tuple(tensor.shape) for name, tensor in state.items()}, json.loads(json.dumps(plain, default=str))


def _shaped(backbone: Backbone, config: ForeignConfig) -> Any:
    kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(config.peft_type)]
    sizes: dict[str, int] = {}
    if config.peft_type == "PREFIX_TUNING":
        # PEFT guesses the heads' width from the configuration, wrongly for some models; ours asks the layers.
        other = meta_backbone(backbone.folder, family=backbone.family, labels=backbone.labels)
        defaults = {field.name: field.default for field in METHODS[config.method].fields}
        ours = build(other, config.method, {**defaults, **config.options}, seed=0).active_peft_config
        sizes = {name: getattr(ours, name) for name in ("num_layers", "num_attention_heads", "token_dim")}
    return get_peft_model(backbone.model, kind(**copy.deepcopy(config.values), **sizes), low_cpu_mem_usage=True)


def check_tensors(found: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]], *, base: str) -> None:
    """Every tensor by name and shape, none missing, none beside. Raises ArtifactError naming the first that is not."""
    hint = "Choose the base model that the adapter was trained on."
    for name, info in found.items():
        if name not in expected:
            raise ArtifactError(f"The tensor {_shown(name)} has no place on {base}.", hint=hint, field="base")
        if info.shape != expected[name]:
            raise ArtifactError(
                f"The tensor {_shown(name)} has the shape {list(info.shape)}; {base} needs {list(expected[name])}.",
                hint=hint, field="base",
            )  # fmt: skip
        if info.dtype not in FLOATS:
            raise ArtifactError(
                f"The tensor {_shown(name)} is of type {info.dtype}; an adapter's numbers are {', '.join(FLOATS)}.",
                field="file",
            )  # fmt: skip
    missing = sorted(set(expected) - set(found))
    if missing:
        raise ArtifactError(
            f"{len(missing):,} of {len(expected):,} tensors are missing, the first is {_shown(missing[0])}.",
            hint=hint, field="base",
        )  # fmt: skip


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The numbers, after the header was checked. Raises ArtifactError naming a tensor with NaN or infinity."""
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(
                f"The tensor {_shown(name)} has NaN or infinity among its numbers.",
                hint="The adapter's training went wrong; train it again with a lower learning rate.", field="file",
            )  # fmt: skip
    return tensors


def _shown(name: str) -> str:
    return name.removeprefix(_PREFIX)[:120]
