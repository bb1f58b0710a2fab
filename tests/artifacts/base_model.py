"""The model that all kept adapters were made for, built from its recipe to the same bytes for ever.

base/ holds its configuration, tokenizer and tensors.json (names and shapes). The weights come out of SHAKE-256 of each
tensor's name, and the file is written by this module: neither a random generator nor a library that may change decides
a byte, so the model's fingerprint stays what the adapters' manifests say.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ml.artifact import load_adapter, read_manifest
from ml.backbone import Backbone, load_backbone

HERE = Path(__file__).parent
NAME = "kept-llama"
IDS = ((5, 9, 300, 17, 44), (101, 7, 7, 250, 12))
"""Two rows of tokens that every adapter is asked about."""
LABELS = ("blue", "green", "red")


def filled(name: str, shape: list[int] | tuple[int, ...]) -> Tensor:
    """Numbers in [-1/4, 1/4) that depend on `name` alone, exact in float32."""
    n = math.prod(shape)
    raw = hashlib.shake_256(name.encode()).digest(2 * n)
    values = [number / (1 << 17) for number in struct.unpack(f"<{n}h", raw)]
    return torch.tensor(values, dtype=torch.float32).reshape(list(shape))


def restore_base(models: Path) -> Path:
    """Writes the model's folder into `models` and returns it."""
    folder = models / NAME
    shutil.copytree(HERE / "base", folder)
    shapes: dict[str, list[int]] = json.loads((folder / "tensors.json").read_text())
    (folder / "tensors.json").unlink()
    header, pieces, position = {}, [], 0
    for name in sorted(shapes):
        values = filled(name, shapes[name]) + (1.0 if "norm" in name else 0.0)
        raw = struct.pack(f"<{values.numel()}f", *values.flatten().tolist())
        header[name] = {"dtype": "F32", "shape": shapes[name], "data_offsets": [position, position + len(raw)]}
        pieces.append(raw)
        position += len(raw)
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(pieces))
    return folder


def loaded(folder: Path, *, quantization: str = "") -> Backbone:
    """The restored model, as a run would load it."""
    return load_backbone(folder, labels=LABELS, quantization=quantization)


@torch.no_grad()
def answers(base: Path, adapter: Path) -> list[list[float]]:
    """What the adapter says to each row of IDS: logits of a head's labels, else of 16 tokens at the last position."""
    backbone = loaded(base)
    storage = read_manifest(adapter).storage
    model: Any = load_adapter(backbone, adapter)
    ids = torch.tensor(IDS)
    mask = torch.ones_like(ids)
    if storage == "head":
        found = model(model.features(ids, mask))
    else:
        found = model(input_ids=ids, attention_mask=mask).logits[:, -1, ::24]
    return [[round(float(value), 5) for value in row] for row in found]
