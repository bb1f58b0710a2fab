"""Keeps the table of base models in step with the models folder.

Cheap enough for every look at the page: reads two small JSON files a model and the head of its safetensors files,
never a weight, and only where something changed. A model without a fingerprint (coldframe.json comes with the first
load) is listed without one; a folder that is gone stays listed as missing, since adapters may name it.
"""

from __future__ import annotations

import json
import logging
import struct
from math import prod
from pathlib import Path
from typing import Any

from django.conf import settings

from webapp.models import BaseModel

logger = logging.getLogger(__name__)
LARGEST_HEAD_BYTES = 16 * 1024 * 1024
LARGEST_JSON_BYTES = 1024 * 1024


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_JSON_BYTES:
            return {}
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _n_parameters(path: Path) -> int:
    """Sum of the tensors' sizes, by the head of a safetensors file; 0 when it cannot be read."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            head = json.loads(file.read(length)) if length <= LARGEST_HEAD_BYTES else {}
        return sum(prod(entry["shape"]) for name, entry in head.items() if name != "__metadata__")
    except (OSError, ValueError, struct.error, KeyError, TypeError) as error:
        logger.warning("cannot read the head of %s: %s", path, error)
        return 0


def _family(folder: Path, about: dict[str, Any], config: dict[str, Any]) -> str:
    if folder.name == settings.EMBEDDING_MODEL or (folder / "modules.json").is_file():
        return "embedding"
    if about.get("family") in ("decoder", "encoder", "encoder_decoder"):
        return str(about["family"])
    if config.get("is_encoder_decoder"):
        return "encoder_decoder"
    is_causal = any("CausalLM" in name or "LMHead" in name for name in config.get("architectures") or [])
    return "decoder" if is_causal else "encoder"


def _licence(about: dict[str, Any]) -> str:
    text = str(about.get("license") or about.get("licence") or "")
    return {"apache-2.0": "Apache-2.0", "mit": "MIT"}.get(text.lower(), text)[:80]


def _source(about: dict[str, Any]) -> tuple[str, str]:
    source = about.get("source")
    if isinstance(source, dict):
        return str(source.get("package") or source.get("hub") or "")[:200], str(source.get("version") or "")[:80]
    return str(source or "")[:200], ""


def _described(folder: Path) -> dict[str, Any]:
    """The row of a model folder."""
    config, about = _json(folder / "config.json"), _json(folder / "coldframe.json")
    weights = sorted(folder.glob("*.safetensors"))
    source, revision = _source(about)
    return {
        "source": source, "revision": revision, "licence": _licence(about),
        "fingerprint": str(about.get("fingerprint") or "")[:64], "family": _family(folder, about, config),
        "config": {
            "architecture": str(config.get("model_type") or ""),
            "parameters": sum(_n_parameters(path) for path in weights),
            "layers": config.get("num_hidden_layers") or config.get("n_layer") or config.get("num_layers"),
            "width": config.get("hidden_size") or config.get("n_embd") or config.get("d_model"),
            "context": config.get("max_position_embeddings") or config.get("n_positions"),
            "bytes": sum(path.stat().st_size for path in weights),
            "stamp": _stamp(folder),
        },
    }  # fmt: skip


def _stamp(folder: Path) -> list[list[Any]]:
    """What tells that a folder changed without reading it: names, sizes and times of the files that count."""
    names = [folder / "config.json", folder / "coldframe.json", *sorted(folder.glob("*.safetensors"))]
    stats = [(path.name, path.stat()) for path in names if path.is_file()]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def models_sync() -> None:
    """Upserts a row for each model folder; marks rows whose folder is gone."""
    root = Path(settings.MODELS_DIR)
    known = {row.name: row for row in BaseModel.objects.all()}
    folders = sorted(path for path in root.iterdir() if (path / "config.json").is_file()) if root.is_dir() else []
    for folder in folders:
        row = known.pop(folder.name, None)
        if row is None or row.config.get("stamp") != _stamp(folder):
            BaseModel.objects.update_or_create(name=folder.name, defaults=_described(folder))
    for row in known.values():
        if not row.config.get("is_missing"):
            BaseModel.objects.filter(pk=row.pk).update(config={**row.config, "is_missing": True, "stamp": None})
