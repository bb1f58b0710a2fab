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
from torch import Tensor, nn

from ml.errors import ArtifactError, ModelError
from ml.foreign.config import ForeignConfig, Layers
from ml.foreign.header import TensorInfo

FLOATS = ("F64", "F32", "F16", "BF16")
_PREFIX = "base_model.model."


def meta_model(folder: Path, *, family: str, labels: Sequence[str] = ()) -> Any:
    """The base model's shape without its weights (every parameter on the meta device). Raises ModelError."""
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        AutoModelForSequenceClassification,
    )

    kinds: dict[str, Any] = {
        "decoder": AutoModelForCausalLM, "encoder_decoder": AutoModelForSeq2SeqLM,
        "encoder": AutoModelForSequenceClassification,
    }  # fmt: skip
    extra = {"num_labels": len(labels)} if labels else {}
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **extra)
        with torch.device("meta"):
            return kinds[family].from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"The model {folder.name} cannot be read: {error}.", field="base") from error


def layers_of(model: Any) -> Layers:
    """The linear layers of `model` and its other modules, by name; the model itself is left out."""
    from transformers.pytorch_utils import Conv1D

    named = [(name, module) for name, module in model.named_modules() if name]
    return Layers(
        linear=frozenset(name for name, module in named if isinstance(module, nn.Linear | Conv1D)),
        others=frozenset(name for name, module in named if not isinstance(module, nn.Linear | Conv1D)),
        transposed=any(isinstance(module, Conv1D) for _, module in named),
    )


def peft_config(config: ForeignConfig) -> Any:
    """PEFT's own configuration object, built from checked values only."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

    return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(config.peft_type)](**copy.deepcopy(config.values))


def expected_tensors(model: Any, config: ForeignConfig) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """What PEFT would save for `config` on `model` (on meta): shapes by name, and the configuration as a dict."""
    from peft import get_peft_model
    from peft.utils import get_peft_model_state_dict

    try:
        with torch.device("meta"):
            shaped: Any = get_peft_model(model, peft_config(config), low_cpu_mem_usage=True)
            state = get_peft_model_state_dict(shaped, save_embedding_layers=False)
    except (ValueError, TypeError, KeyError, NotImplementedError, AttributeError, RuntimeError) as error:
        raise ArtifactError(
            f"The adapter does not go with this base model: {str(error)[:200]}",
            hint="Choose the base model that it was trained on.", field="base",
        ) from error  # fmt: skip
    full = shaped.active_peft_config.to_dict()
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in full.items()}
    return {name: tuple(tensor.shape) for name, tensor in state.items()}, json.loads(json.dumps(plain, default=str))


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
    from safetensors.torch import load_file

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
