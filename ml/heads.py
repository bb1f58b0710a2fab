"""A classifier head on frozen features, in memory and as files.

Legend: B rows, T tokens, D width, L labels. The features of a row are the frozen model's final states [T, D], averaged
over its tokens, or those of its last or first token alone; standardized with the training rows' mean and standard
deviation, which belong to the head. As files:

    head.safetensors   weight [L, D], bias [L], mean [D], std [D], all float32
    head_config.json   {"format": "coldframe-head", "version": 1, "pooling": "mean" | "last" | "first",
                        "labels": [L names, in the order of the weights], "width": D, "base_model": name}

The answer's log probabilities are log_softmax(weight · (features − mean) / std + bias).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ml.errors import ArtifactError
from ml.files import write_json

CONFIG = "head_config.json"
WEIGHTS = "head.safetensors"
FORMAT = "coldframe-head"
VERSION = 1
POOLINGS = ("mean", "last", "first")
_TENSORS = ("bias", "mean", "std", "weight")
_SMALLEST_STD = 1e-6


class HeadModel(nn.Module):
    """Softmax regression over the features of a frozen model, which it holds without owning: its parameters, modes
    and state are not part of this module's."""

    backbone_model: Any
    mean: Tensor
    std: Tensor

    def __init__(self, backbone_model: Any, *, labels: Sequence[str], pooling: str) -> None:
        super().__init__()
        object.__setattr__(self, "backbone_model", backbone_model)
        self.labels, self.pooling = tuple(labels), pooling
        width, device = width_of(backbone_model), backbone_model.device
        self.weight = nn.Parameter(torch.zeros(len(self.labels), width, device=device))
        self.bias = nn.Parameter(torch.zeros(len(self.labels), device=device))
        self.register_buffer("mean", torch.zeros(width, device=device))
        self.register_buffer("std", torch.ones(width, device=device))

    @property
    def config(self) -> Any:
        """The frozen model's."""
        return self.backbone_model.config

    @property
    def device(self) -> torch.device:
        return self.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, L] of features [B, D]."""
        return nn.functional.linear((features - self.mean) / self.std, self.weight, self.bias)

    def standardize(self, mean: Tensor, std: Tensor) -> None:
        """Takes the training features' mean and standard deviation [D]; what never varies is divided by one."""
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > _SMALLEST_STD, std, torch.ones_like(std)))

    @torch.no_grad()
    def features(self, ids: Tensor, mask: Tensor, prefix: Sequence[int] = ()) -> Tensor:
        """Features [B, D] in float32 of rows that are `prefix` and then right-padded `ids` [B, T] with `mask` [B, T].

        The prefix, of S tokens, runs once; only decoders can have one.
        """
        body = self.backbone_model.base_model
        if not prefix:
            states = body(input_ids=ids, attention_mask=mask.long()).last_hidden_state
            return pooled(states.float(), mask.bool(), self.pooling)
        before = body(input_ids=torch.tensor([list(prefix)], device=ids.device), use_cache=True)
        for layer in before.past_key_values.layers:
            layer.keys = layer.keys.expand(len(ids), -1, -1, -1)
            layer.values = layer.values.expand(len(ids), -1, -1, -1)
        mask = torch.cat([mask.new_ones(len(ids), len(prefix)), mask], dim=1)  # [B, S + T]
        positions = torch.arange(len(prefix), mask.shape[1], device=ids.device).expand(len(ids), -1)
        after = body(input_ids=ids, attention_mask=mask.long(), position_ids=positions,
                     past_key_values=before.past_key_values, use_cache=True)  # fmt: skip
        states = torch.cat([before.last_hidden_state.expand(len(ids), -1, -1), after.last_hidden_state], dim=1)
        return pooled(states.float(), mask.bool(), self.pooling)

    def state(self) -> dict[str, Tensor]:
        """The tensors to save: weight, bias, mean, std."""
        return {name: tensor.detach().float().contiguous().cpu() for name, tensor in self.state_dict().items()}


def pooled(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """[B, D] of states [B, T, D] whose rows have the tokens where `mask` [B, T] is true, on the right padded."""
    if pooling == "first":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
    weights = mask.to(states.dtype)[:, :, None]  # [B, T, 1]
    return (states * weights).sum(1) / weights.sum(1)


def width_of(model: Any) -> int:
    """D: the size of a final state."""
    return int(getattr(model.config, "hidden_size", 0) or model.get_input_embeddings().weight.shape[1])


def save_head(model: HeadModel, folder: Path, base_name: str) -> None:
    """Writes head.safetensors and head_config.json. Equal heads give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(sorted(model.state().items())), folder / WEIGHTS, metadata={"format": "pt"})
    write_json(
        folder / CONFIG,
        {"format": FORMAT, "version": VERSION, "pooling": model.pooling, "labels": list(model.labels),
         "width": model.weight.shape[1], "base_model": base_name},
    )  # fmt: skip


def load_head(backbone: Any, folder: Path) -> HeadModel:
    """The head of `folder` on `backbone.model`, ready to answer.

    Raises ArtifactError when the folder is damaged, of another format, or made for another width.
    """
    about, tensors = _read(Path(folder))
    width = width_of(backbone.model)
    n_labels = len(about["labels"])
    shapes = {"weight": (n_labels, width), "bias": (n_labels,), "mean": (width,), "std": (width,)}
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ArtifactError(
                f"The head's {name} has shape {list(tensors[name].shape)}, {backbone.name} needs {list(shape)}.",
                hint="Use it with the base model that it was trained on.",
            )
    model = HeadModel(backbone.model, labels=about["labels"], pooling=about["pooling"])
    model.load_state_dict(tensors)
    model.requires_grad_(False)
    return model.eval()


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        about: Any = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"The head in {folder} cannot be read: {error}.", hint="Train it again.") from error
    known = isinstance(about, dict) and about.get("format") == FORMAT and about.get("version") == VERSION
    if not known or about.get("pooling") not in POOLINGS or not isinstance(about.get("labels"), list):
        raise ArtifactError(f"{CONFIG} must be {FORMAT} version {VERSION}, got {about!r:.120}.",
                            hint="Update Coldframe.")  # fmt: skip
    if sorted(tensors) != list(_TENSORS):
        raise ArtifactError(f"{WEIGHTS} must hold {', '.join(_TENSORS)}, got {', '.join(sorted(tensors)) or 'none'}.")
    return about, tensors
