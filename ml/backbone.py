"""The frozen base model: where it lives, what it is, how it is loaded.

Guarantees: nothing outside the models folder is opened; no code from a model folder is ever run
(`trust_remote_code` is never true); only safetensors weights are read, no pickle; no network is used; the loaded model
is in evaluation mode and no parameter asks for a gradient. `fingerprint` identifies weights and architecture, so that
an adapter is never put on another model. What is loaded how is in `ml.loading`, what is refused in `ml.families`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ml.errors import ModelError
from ml.families import FAMILIES, check_family, family_of, read_config
from ml.loading import is_out_of_memory, load_model, weights_of

__all__ = [
    "ABOUT",
    "Backbone",
    "family_of",
    "fingerprint_of",
    "is_out_of_memory",
    "load_backbone",
    "model_folder",
    "read_about",
    "sha256_of",
    "write_about",
]

ABOUT = "coldframe.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOT_IDENTITY = ("transformers_version", "_name_or_path", "_model_name_or_path", "dtype", "torch_dtype")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A loaded base model with its tokenizer."""

    model: Any
    """A transformers model of the family: evaluation mode, every parameter frozen."""
    tokenizer: Any
    """A fast tokenizer; `pad_token_id` is always set."""
    fingerprint: str
    """sha256 (hex) over weights and architecture."""
    family: str
    """`decoder`, `encoder` or `encoder_decoder`."""
    labels: tuple[str, ...] = ()
    """The labels it was loaded for: what an encoder's classifier, or a head on any family, tells apart, in order."""
    name: str
    """The folder's name: how specs and artifacts call the model."""
    folder: Path


def model_folder(models_dir: Path, name: str) -> Path:
    """The folder of the model called `name`. Raises ModelError when it is missing or outside `models_dir`."""
    root = Path(models_dir).resolve()
    folder = (root / str(name)).resolve()
    if not isinstance(name, str) or not _NAME.fullmatch(name) or folder.parent != root:
        raise ModelError(
            f"{name!r} is not the name of a model in the models folder.",
            hint="Give the name of a folder inside the models folder; paths and links that lead outside are refused.",
            field="base",
        )
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"There is no model {name!r} in the models folder {root}.",
            hint=f"Fetch the starter models with: python -m ml starter --into {root}",
            field="base",
            code="model_missing",
        )
    return folder


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def read_about(folder: Path) -> dict[str, Any]:
    """coldframe.json of a model folder; empty when there is none or it cannot be read."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def write_about(folder: Path, about: dict[str, Any]) -> None:
    """Writes coldframe.json whole or not at all."""
    staged = folder / f".{ABOUT}.{os.getpid()}"
    staged.write_text(json.dumps(about, indent=1, sort_keys=True), encoding="utf-8")
    staged.replace(folder / ABOUT)


def _identity_config(folder: Path) -> bytes:
    config = read_config(folder)
    return json.dumps({k: v for k, v in config.items() if k not in _NOT_IDENTITY}, sort_keys=True).encode()


def fingerprint_of(folder: Path) -> str:
    """sha256 (hex) over the weight files' bytes and the configuration.

    Kept in coldframe.json together with the files' sizes and times; computed anew when those differ.
    """
    folder = Path(folder)
    files = weights_of(folder)
    config = _identity_config(folder)
    stamp: dict[str, Any] = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
    stamp["config.json"] = hashlib.sha256(config).hexdigest()
    about = read_about(folder)
    if about.get("stamp") == stamp and isinstance(about.get("fingerprint"), str):
        return str(about["fingerprint"])
    digest = hashlib.sha256(config)
    for path in files:
        digest.update(f"\n{path.name} {sha256_of(path)}".encode())
    fingerprint = digest.hexdigest()
    with suppress(OSError):  # a read-only models folder only costs the cache
        write_about(folder, {**about, "fingerprint": fingerprint, "stamp": stamp})
    return fingerprint


def load_backbone(
    folder: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu", labels: Sequence[str] | None = None,
    quantization: str = "", double_quantization: bool = True, seed: int = 0, families: Sequence[str] = FAMILIES,
) -> Backbone:  # fmt: skip
    """The model in `folder`, frozen, on `device`. Raises ModelError naming what is wrong with the folder.

    `labels` put a classifier on an encoder, whose fresh weights depend on `seed` alone; the other families answer in
    text and only note them. `quantization="nf4"` holds the linear layers in 4 bits. A model that is not of one of
    `families` is refused before anything is read.
    """
    folder = Path(folder)
    family = family_of(folder)
    check_family(folder.name, family, tuple(families))
    names = tuple(labels or ()) if family == "encoder" else ()
    model, tokenizer = load_model(
        folder, family, dtype=dtype, device=device, labels=names, quantization=quantization,
        double_quantization=double_quantization, seed=seed,
    )  # fmt: skip
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return Backbone(
        model=model,
        tokenizer=tokenizer,
        fingerprint=fingerprint_of(folder),
        family=family,
        labels=tuple(labels or ()),
        name=folder.name,
        folder=folder,
    )
