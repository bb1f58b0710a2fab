"""A safetensors file's header, checked by our own code before any library opens the file.

Guarantees: reads the first bytes only, never more than MAX_HEADER_BYTES; a file that passes has known element types,
sizes that multiply out, and data that lies in one piece from the header to the file's end: no gap, no overlap, nothing
beyond. Does not look at the numbers themselves (see `ml.foreign.fit`).
"""

from __future__ import annotations

import math
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.errors import ArtifactError
from ml.foreign.strict_json import strict_json

MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 50_000
MAX_DIMENSIONS = 8
MAX_NAME = 400
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8,
}  # fmt: skip
"""Element types of the format, with their sizes in bytes."""
_OTHERS = ((b"GGUF", "a GGUF model"), (b"PK\x03\x04", "a zip or PyTorch file"), (b"\x80", "a pickle"))


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """What the header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    """First byte, counted from the end of the header."""
    end: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name. Raises ArtifactError naming the rule that the file breaks."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise _broken(path, "it is not a plain file")
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        for signature, what in _OTHERS:
            # A real header of such a length would be larger than any that is read here.
            if first.startswith(signature) and int.from_bytes(first, "little") > MAX_HEADER_BYTES:
                raise _broken(path, f"it is {what} under another name")
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length < 2:
            raise _broken(path, f"it has {n_bytes} bytes and no header")
        if length > MAX_HEADER_BYTES:
            raise _broken(path, f"its header claims {length:,} bytes; at most {MAX_HEADER_BYTES:,} are read")
        if length > n_bytes - 8:
            raise _broken(path, f"its header claims {length:,} bytes, the file has {n_bytes:,}")
        raw = file.read(length)
    about = strict_json(raw, f"the header of {path.name}")
    about.pop("__metadata__", None)
    if len(about) > MAX_TENSORS:
        raise _broken(path, f"it names {len(about):,} tensors; at most {MAX_TENSORS:,} are read")
    found = {name: _tensor(path, name, entry) for name, entry in about.items()}
    _check_layout(path, found, n_data=n_bytes - 8 - length)
    return found


def _tensor(path: Path, name: str, entry: Any) -> TensorInfo:
    where = f"tensor {name[:80]!r}"
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise _broken(path, f"{where} has an impossible name")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, f"{where} must have dtype, shape and data_offsets and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _broken(path, f"{where} has the unknown element type {str(dtype)[:40]!r}")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise _broken(path, f"{where} has the impossible shape {str(shape)[:80]}")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _broken(path, f"{where} has the impossible offsets {str(offsets)[:80]}")
    n_bytes = math.prod(shape) * ITEM_BYTES[dtype]
    if n_bytes != offsets[1] - offsets[0]:
        told = offsets[1] - offsets[0]
        raise _broken(path, f"{where} of shape {shape} takes {n_bytes:,} bytes, its offsets say {told:,}")
    return TensorInfo(dtype=dtype, shape=tuple(shape), begin=offsets[0], end=offsets[1])


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 48 for item in value)


def _check_layout(path: Path, found: dict[str, TensorInfo], *, n_data: int) -> None:
    """One after the other from byte 0 to the file's end."""
    position = 0
    for name, info in sorted(found.items(), key=lambda pair: (pair[1].begin, pair[1].end)):
        if info.begin != position:
            kind = "overlaps the one before it" if info.begin < position else "leaves a gap before it"
            raise _broken(path, f"tensor {name[:80]!r} {kind} (byte {info.begin:,}, expected {position:,})")
        position = info.end
    if position != n_data:
        raise _broken(path, f"its tensors take {position:,} bytes, the file holds {n_data:,}")


def _broken(path: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"{path.name} is not a sound safetensors file: {what}.",
        hint="Save the adapter again with peft's save_pretrained and upload that folder.",
        field="file",
    )
