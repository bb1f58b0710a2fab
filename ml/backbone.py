"""The frozen base model: where it lives, what it is, how it is loaded.

Guarantees: nothing outside the models folder is opened; no code from a model folder is ever run
(`trust_remote_code` is never true); only safetensors weights are read, no pickle; no network is used; the loaded model
is in evaluation mode and no parameter asks for a gradient. `fingerprint` identifies weights and architecture, so that
an adapter is never put on another model. Only decoder language models are loaded here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from ml.errors import ModelError, OutOfMemoryError

ABOUT = "coldframe.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ENCODERS = ("bert", "roberta", "distilbert", "electra", "deberta", "deberta-v2", "mpnet", "albert", "xlm-roberta")
_NOT_IDENTITY = ("transformers_version", "_name_or_path", "_model_name_or_path", "dtype", "torch_dtype")
_CHUNK_BYTES = 1 << 20
_NO_MEMORY = ("can't allocate memory", "not enough memory", "cannot allocate memory", "bad_alloc", "out of memory")


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A loaded base model with its tokenizer."""

    model: Any
    """A transformers causal LM: evaluation mode, every parameter frozen."""
    tokenizer: Any
    """A fast tokenizer; `pad_token_id` is always set."""
    fingerprint: str
    """sha256 (hex) over weights and architecture."""
    family: str
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
    config = _read_config(folder)
    return json.dumps({k: v for k, v in config.items() if k not in _NOT_IDENTITY}, sort_keys=True).encode()


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {error}.", hint="Fetch the model again.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'} is not a JSON object.", hint="Fetch the model again.")
    return config


def _weights(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{folder.name} has no *.safetensors weights.",
            hint="Only safetensors are read. Convert the model with save_pretrained first.",
            field="base",
        )
    return files


def fingerprint_of(folder: Path) -> str:
    """sha256 (hex) over the weight files' bytes and the configuration.

    Kept in coldframe.json together with the files' sizes and times; computed anew when those differ.
    """
    folder = Path(folder)
    files = _weights(folder)
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


def family_of(folder: Path) -> str:
    """`decoder`, `encoder` or `encoder_decoder`, from the configuration alone. Raises ModelError for anything else."""
    config = _read_config(Path(folder))
    kind = config.get("model_type")
    if config.get("is_encoder_decoder"):
        return "encoder_decoder"
    if kind in _ENCODERS:
        return "encoder"
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and "auto_map" not in config:
        return "decoder"
    raise ModelError(
        f"{Path(folder).name} is a {kind!r} model, which cannot be used.",
        hint="Use a decoder language model that transformers knows by itself; models that bring code are refused.",
        field="base",
    )


def load_backbone(folder: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Backbone:
    """The decoder model in `folder`, frozen, on `device`. Raises ModelError naming what is wrong with the folder."""
    folder = Path(folder)
    family = family_of(folder)
    if family != "decoder":
        raise ModelError(
            f"{folder.name} is an {family.replace('_', '-')} model.",
            hint="Training and chat need a decoder language model (GPT or Llama kind).",
            field="base",
        )
    model, tokenizer = _load(folder, dtype)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    model = model.to(device).eval().requires_grad_(False)
    return Backbone(
        model=model,
        tokenizer=tokenizer,
        fingerprint=fingerprint_of(folder),
        family=family,
        name=folder.name,
        folder=folder,
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is torch's or Python's way of saying that memory ran out."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY)


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    _weights(folder)
    transformers_logging.disable_progress_bar()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **local)
        _check_attention(folder.name, config)
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
        options = {**local, "config": config, "dtype": dtype, "use_safetensors": True}
        return AutoModelForCausalLM.from_pretrained(folder, **options), tokenizer
    except (MemoryError, OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(
                f"There is not enough memory to load {folder.name}.",
                hint="Stop what else holds memory, or choose a smaller base model.",
                field="base",
            ) from error
        raise ModelError(
            f"The model {folder.name} cannot be loaded: {error}.",
            hint="Fetch or convert the model again.",
            field="base",
        ) from error


def _check_attention(name: str, config: Any) -> None:
    """Refuses models whose past is not the keys and values of every token: shared prefixes would be wrong there."""
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True) and not getattr(config, "layer_types", None):
        kinds.add(f"a sliding window of {window}")
    if getattr(config, "num_kv_shared_layers", 0):
        kinds.add("layers that share keys and values")
    if not getattr(config, "num_attention_heads", 0):
        kinds.add("no attention")
    if kinds:
        raise ModelError(
            f"{name} is a {config.model_type} model with {', '.join(sorted(kinds))}, which cannot be used yet.",
            hint="Use a decoder with full attention in every layer, such as Llama, Qwen2 or GPT-2.",
            field="base",
        )
