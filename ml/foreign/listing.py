"""Which files of a stranger's adapter folder are read, which are passed over, and which are refused.

Guarantees: only plain files directly in the folder; nothing is opened that could run code; what is passed over is said.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from ml.errors import ArtifactError
from ml.foreign.strict_json import strict_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
CARD = "README.md"
MAX_FILES = 64
MAX_JSON_BYTES = 1 << 20
MAX_CARD_BYTES = 1 << 20
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".dill")
_MODELS = (".gguf", ".ggml", ".h5", ".hdf5", ".msgpack", ".onnx", ".tflite")
_TEXTS = (".md", ".txt", ".jinja", ".json", ".jsonl", ".yaml", ".yml", ".model", ".gitattributes", ".gitignore")
_CODE_KEYS = ("auto_map", "trust_remote_code")


def check_listing(folder: Path) -> list[str]:
    """What was passed over, as sentences for people. Raises ArtifactError for a file that is refused or missing."""
    notices, names = [], set()
    entries = sorted(folder.iterdir())
    if len(entries) > MAX_FILES:
        raise ArtifactError(f"The folder has {len(entries):,} files; an adapter has at most {MAX_FILES}.", field="file")
    for path in entries:
        _check_plain(path)
        names.add(path.name)
        if path.name in (CONFIG, WEIGHTS):
            continue
        if path.name == CARD:
            if path.stat().st_size > MAX_CARD_BYTES:
                raise _refused(path, f"has {path.stat().st_size:,} bytes; a card has at most {MAX_CARD_BYTES:,}", "")
            continue
        _check_kind(path)
        notices.append(f"{path.name} was not read: an adapter needs none of it.")
    for name in (CONFIG, WEIGHTS):
        if name not in names:
            raise ArtifactError(
                f"The folder has no {name}.",
                hint="Upload the folder that peft's save_pretrained writes: adapter_config.json and "
                "adapter_model.safetensors. Heads and changed weights of Coldframe are published from their runs.",
                field="file",
            )
    return notices


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of at most MAX_JSON_BYTES that asks for no code."""
    n_bytes = path.stat().st_size
    if n_bytes > MAX_JSON_BYTES:
        raise _refused(path, f"has {n_bytes:,} bytes; at most {MAX_JSON_BYTES:,} are read", "")
    found = strict_json(path.read_bytes(), path.name)
    for key in _CODE_KEYS:
        if found.get(key):
            raise _refused(path, f"asks for code of its own ({key})", "Code from a model folder is never run here.")
    return found


def _check_plain(path: Path) -> None:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        raise _refused(path, "is a link", "Upload the file that it points at.")
    if not stat.S_ISREG(mode):
        raise _refused(path, "is not a plain file", "Put the adapter's files into one folder without others in it.")


def _check_kind(path: Path) -> None:
    suffix = path.suffix.lower() or path.name.lower()
    if suffix in _PICKLES:
        hint = "Load the adapter with peft and save it with save_pretrained(folder, safe_serialization=True)."
        if not path.name.startswith(("adapter_model", "pytorch_model")):
            hint = f"Leave it out: only {CONFIG} and {WEIGHTS} are needed."
        raise _refused(path, f"is a pickle ({suffix}), which can run code when it is opened", hint)
    if suffix in _MODELS:
        raise _refused(
            path, f"is a {suffix[1:].upper()} file", f"Upload the PEFT adapter that it was made of, as {WEIGHTS}."
        )
    if suffix == ".safetensors":
        raise _refused(path, "is not the adapter's weights", f"One file of weights is read: {WEIGHTS}.")
    if path.name.endswith(".index.json"):
        _check_index(path)
    elif suffix == ".json" and path.stat().st_size <= MAX_JSON_BYTES:
        # Larger ones (a tokenizer) are never configurations, and nothing reads them.
        read_json(path)
    elif suffix not in _TEXTS and suffix not in ("license", "notice"):
        raise _refused(path, "is of no kind that belongs to an adapter", f"Upload {CONFIG}, {WEIGHTS} and {CARD}.")


def _check_index(path: Path) -> None:
    """An index of shards: names of files in this folder, or a way out of it."""
    places = read_json(path).get("weight_map", {})
    for place in set(map(str, places.values())) if isinstance(places, dict) else {str(places)}:
        parts = PurePosixPath(place.replace("\\", "/"))
        if len(parts.parts) != 1 or place in ("..", ".") or re.match(r"[A-Za-z]:", place) or "\0" in place:
            raise _refused(path, f"points outside the folder ({place[:80]!r})", f"Save the weights in one {WEIGHTS}.")


def _refused(path: Path, what: str, hint: str) -> ArtifactError:
    return ArtifactError(f"{path.name[:80]!r} {what}.", hint=hint, field="file")
