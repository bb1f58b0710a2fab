"""An adapter and its base model as one whole model folder, which plain transformers loads.

Guarantees: the folder is written beside its final place and renamed; there is room for it on the disk before the first
byte; the model answers as base and adapter did, but for the rounding of float32 (logits within 1e-5 on small models,
3e-5 beside logits of 29 on the starter model); safetensors only. A QLoRA adapter is merged into the full-precision
base model: what it was trained on was rounded to 4 bits, so its answers may differ by that much from those seen in
training. Limits: only on the CPU; what changes no weights cannot be merged.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ml.artifact import Manifest, artifact_id, load_adapter, verify
from ml.backbone import Backbone, load_backbone, model_folder, read_about
from ml.errors import ArtifactError, SpecError, StorageError
from ml.files import staged_folder
from ml.specs import METHODS
from ml.specs.merging import why_not_merged

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SLACK = 1.02
"""Room for tokenizer and configuration beside the weights."""


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What was written."""

    n_bytes: int
    dtype: str
    files: tuple[str, ...]


def check_merges(manifest: Manifest) -> None:
    """Raises SpecError saying why an artifact cannot become one model, and what to do instead."""
    if reason := why_not_merged(manifest.method):
        raise SpecError(reason.text, hint=reason.hint, field="method")


def merge(
    adapter: Path, *, models_dir: Path, into: Path, dtype: str = "float32",
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Merged:  # fmt: skip
    """Writes the folder `into`: weights, tokenizer with its chat template, generation settings, README.md.

    `dtype` is float32, which is exact, or bfloat16, half as large. Raises SpecError for methods that do not merge,
    ArtifactError and ModelError for a damaged adapter or a missing base, StorageError when the disk is too full.
    """
    if dtype not in DTYPES:
        raise SpecError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}.", field="dtype")
    manifest = verify(adapter)
    check_merges(manifest)
    progress(0, 3, "Loading the base model")
    backbone = load_backbone(
        model_folder(models_dir, manifest.base.get("name", "")), labels=tuple(manifest.labels) or None
    )
    _check_room(backbone.model, into, DTYPES[dtype])
    progress(1, 3, "Merging")
    model = merged_model(backbone, adapter).to(DTYPES[dtype])
    progress(2, 3, "Writing the model")
    with staged_folder(into) as staged:
        _write(staged, model, backbone, manifest, adapter, dtype)
        files = tuple(sorted(path.name for path in staged.iterdir()))
        n_bytes = sum(path.stat().st_size for path in staged.iterdir())
    progress(3, 3, "")
    return Merged(n_bytes=n_bytes, dtype=dtype, files=files)


def merged_model(backbone: Backbone, adapter: Path) -> Any:
    """`backbone.model` with the adapter's change inside its own weights: a plain transformers model.

    Raises ArtifactError when merging gives numbers that are not finite.
    """
    model = load_adapter(backbone, adapter)
    if hasattr(model, "merge_and_unload"):
        _untie_wrapped(model)
        try:
            model = model.merge_and_unload(safe_merge=True)
        except ValueError as error:
            raise ArtifactError(f"The adapter cannot be merged: {error}.", hint="Train it again.") from error
    model.requires_grad_(False)
    return model.eval()


def _untie_wrapped(model: Any) -> None:
    """A changed output layer must not change the input embeddings that it shares its matrix with."""
    base = model.get_base_model()
    output, embeddings = base.get_output_embeddings(), base.get_input_embeddings()
    inner = getattr(output, "base_layer", None)
    if inner is not None and inner.weight is getattr(embeddings, "base_layer", embeddings).weight:
        inner.weight = nn.Parameter(inner.weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = False
        base.all_tied_weights_keys = {}


def _check_room(model: Any, into: Path, dtype: torch.dtype) -> None:
    into.parent.mkdir(parents=True, exist_ok=True)
    needed = int(_SLACK * sum(p.numel() for p in model.parameters()) * dtype.itemsize)
    free = shutil.disk_usage(into.parent).free
    if needed > free:
        raise StorageError(
            f"The merged model takes {needed:,} bytes; the disk of {into.parent} has {free:,} left.",
            hint="Make room, or ask for bfloat16.",
        )


def _write(folder: Path, model: Any, backbone: Backbone, manifest: Manifest, adapter: Path, dtype: str) -> None:
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is not None:
            config._name_or_path = ""  # never a path of this machine
    if not model.config.tie_word_embeddings:
        _unshare(model)
    model.save_pretrained(folder, safe_serialization=True)
    backbone.tokenizer.name_or_path = backbone.name
    backbone.tokenizer.save_pretrained(folder)
    for licence in sorted(backbone.folder.glob("LICENSE*")):
        shutil.copyfile(licence, folder / licence.name)
    (folder / "README.md").write_text(_card(backbone, manifest, adapter, dtype), encoding="utf-8")


def _unshare(model: Any) -> None:
    """A matrix of its own for every place, since a model whose output layer is untied shares none when it is loaded."""
    seen: set[int] = set()
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if id(parameter) in seen:
            module, _, own = name.rpartition(".")
            setattr(model.get_submodule(module), own, nn.Parameter(parameter.detach().clone(), requires_grad=False))
        seen.add(id(parameter))
    model.all_tied_weights_keys = {}


def _card(backbone: Backbone, manifest: Manifest, adapter: Path, dtype: str) -> str:
    method = METHODS[manifest.method]
    about = read_about(backbone.folder)
    source = f" ({about['source']})" if isinstance(about.get("source"), str) else ""
    licence = f"\nThe base model's licence: {about['licence']}.\n" if isinstance(about.get("licence"), str) else ""
    rounded = (
        "\nThe adapter was trained on a base model rounded to 4 bits and is merged here into the full-precision one, so"
        "\nits answers may differ a little from those measured in training.\n"
        if "double_quantization" in {field.name for field in method.fields}
        else ""
    )
    return f"""# {backbone.name} with {method.label}, merged

The base model `{backbone.name}`{source} with one adapter's change inside its weights, written by Coldframe in {dtype}.
Plain transformers loads this folder; neither peft nor Coldframe is needed.

| part | sha256 |
|---|---|
| base model | {backbone.fingerprint} |
| adapter (its manifest.json) | {artifact_id(adapter)} |
| data set `{" ".join(str(manifest.dataset.get("name", "")).split())}` | {manifest.dataset.get("sha256") or "–"} |
{rounded}{licence}"""
