"""A change of a model's own weights as files: `model_delta.safetensors` and `weights_config.json`.

model_delta.safetensors holds the new values (not differences) of exactly the tensors that were trained, by parameter
name, in the dtype that they were trained in. weights_config.json:

    {"format": "coldframe-weights", "version": 1, "base_model": name, "untied": bool, "family": family,
     "labels": [...], "tensors": {parameter name: [shape]}}

`untied`: the output layer has a matrix of its own beside the input embeddings, also where the base model shares one.
Equal weights give equal bytes. Loading changes the loaded model, never the model's folder; every tensor must have a
place of the same shape, and nothing is put on when one has not.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ml.errors import ArtifactError
from ml.files import write_json

CONFIG = "weights_config.json"
WEIGHTS = "model_delta.safetensors"
FORMAT = "coldframe-weights"
VERSION = 1


def untie(model: Any) -> None:
    """Gives the output layer its own copy of a matrix shared with the input embeddings; nothing when it has one.

    The model gets a configuration of its own that says so; the input embeddings stay as they are.
    """
    output = model.get_output_embeddings()
    if output is None or output.weight is not model.get_input_embeddings().weight:
        return
    output.weight = nn.Parameter(output.weight.detach().clone(), requires_grad=False)
    model.config = copy.copy(model.config)
    model.config.tie_word_embeddings = False
    own = next(name for name, module in model.named_modules() if module is output)
    tied = getattr(model, "all_tied_weights_keys", {})
    model.all_tied_weights_keys = {k: v for k, v in tied.items() if not k.startswith(f"{own}.")}


def is_untied(model: Any) -> bool:
    """Whether the output layer has a matrix of its own."""
    output = model.get_output_embeddings()
    return output is not None and output.weight is not model.get_input_embeddings().weight


def family_of_model(model: Any) -> str:
    """decoder, encoder or encoder_decoder."""
    if model.config.is_encoder_decoder:
        return "encoder_decoder"
    return "decoder" if model.get_output_embeddings() is not None else "encoder"


def labels_of_model(model: Any) -> list[str]:
    """The labels that an encoder's classifier tells apart, in its order; none for models that write text."""
    if family_of_model(model) != "encoder" or model.base_model is model:
        return []
    return [str(model.config.id2label[i]) for i in range(int(model.config.num_labels))]


def save_delta(model: Any, folder: Path, base_name: str) -> None:
    """Writes the trained tensors (those with `requires_grad`) of a transformers model, and their configuration."""
    trained = {name: p.detach().contiguous().cpu() for name, p in model.named_parameters() if p.requires_grad}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(sorted(trained.items())), folder / WEIGHTS, metadata={"format": "pt"})
    about = {"format": FORMAT, "version": VERSION, "base_model": base_name, "untied": is_untied(model),
             "family": family_of_model(model), "labels": labels_of_model(model),
             "tensors": {name: list(tensor.shape) for name, tensor in trained.items()}}  # fmt: skip
    write_json(folder / CONFIG, about)


def load_delta(backbone: Any, folder: Path) -> Any:
    """`backbone.model` with the tensors of `folder` on it, frozen and ready to answer.

    The model itself is changed, but no tensor is written into: a model that shares some stays as it is. Raises
    ArtifactError when the folder is damaged, of another format, or has a tensor that the model has no place for.
    """
    model = backbone.model
    about, tensors = _read(Path(folder))
    labels = labels_of_model(model)
    if about["labels"] and list(about["labels"]) != labels:
        raise ArtifactError(
            f"The weights answer with the labels {about['labels']!r:.200}, the model was loaded with {labels!r:.200}.",
            hint="Load the base model with the adapter's labels.",
        )
    if about["untied"]:
        untie(model)
    places = dict(model.named_parameters())
    for name, tensor in tensors.items():
        if name not in places or places[name].shape != tensor.shape:
            there = list(places[name].shape) if name in places else "none"
            raise ArtifactError(
                f"{WEIGHTS} has {name} of shape {list(tensor.shape)}; the model's is {there}.",
                hint="Use it with the base model that it was trained on.",
            )
    _replace(model, {places[name]: tensor for name, tensor in tensors.items()})
    model.requires_grad_(False)
    return model.eval()


def _replace(model: Any, new: dict[nn.Parameter, torch.Tensor]) -> None:
    """Puts new parameters in all places of old ones, whose tensors stay as they are: another model may share them."""
    put = {
        id(old): nn.Parameter(tensor.to(device=old.device, dtype=old.dtype), requires_grad=False)
        for old, tensor in new.items()
    }
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if id(parameter) in put:
                module._parameters[name] = put[id(parameter)]


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        about: Any = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"The weights in {folder} cannot be read: {error}.", hint="Train it again.") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT or about.get("version") != VERSION:
        got = about.get("format"), about.get("version") if isinstance(about, dict) else type(about)
        raise ArtifactError(f"{CONFIG} must be {FORMAT} version {VERSION}, got {got!r}.", hint="Update Coldframe.")
    missing = {"untied", "labels", "tensors"} - set(about)
    if missing or set(about["tensors"]) != set(tensors):
        raise ArtifactError(f"{CONFIG} does not describe {WEIGHTS}.", hint="Train it again.")
    return about, tensors
