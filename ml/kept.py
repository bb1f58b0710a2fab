"""Rows of vectors kept on the disk: computed once, read many times, whole or not there at all.

Legend: T vectors of a row, D width. A folder of safetensors shards (one tensor [vectors, D] each, memory-mapped when
read) and kept.json: whose they are (`identity`), where each row's pieces are, a sha256 for every file. A folder that is
damaged, incomplete or someone else's counts as absent and is written anew. Pieces may belong to many rows, so that what
rows have in common is stored once. Limit: written by one process at a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ml.errors import SpecError
from ml.events import Emitter
from ml.files import first_damage, staged_folder, stamp, write_json

MANIFEST = "kept.json"
_SCHEMA = 1
_SHARD_BYTES = 256 << 20
_MOST_OF_DISK = 0.9


@dataclass(frozen=True, kw_only=True)
class NoRoom:
    """What to say when the disk is too small."""

    what: str
    hint: str
    field: str = ""

    def error(self, folder: Path, n_bytes: int) -> SpecError:
        free = shutil.disk_usage(folder.parent).free
        return SpecError(
            f"{self.what} takes up to {n_bytes / 1e9:.2f} GB; the disk of the run's work folder has {free / 1e9:.2f} "
            "GB free.",
            hint=self.hint,
            field=self.field,
        )


class Writer:
    """Collects pieces and writes a shard whenever there are enough of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: list[Tensor] = []
        self._n_shards = 0
        self._start = 0
        self.pieces: list[tuple[int, int, int]] = []
        """Shard, first vector, behind the last vector."""
        self.rows: dict[str, dict[int, list[int]]] = {}
        """For each stream and row the numbers of its pieces, in order."""
        self.about: dict[str, Any] = {}

    def piece(self, vectors: Tensor) -> int:
        """Keeps `vectors` [T, D] and returns the piece's number."""
        kept = vectors.detach().to("cpu", copy=True).contiguous()
        self._waiting.append(kept)
        stop = self._start + len(kept)
        self.pieces.append((self._n_shards, self._start, stop))
        self._start = stop
        if stop * kept.shape[1] * kept.element_size() >= _SHARD_BYTES:
            self.flush()
        return len(self.pieces) - 1

    def row(self, stream: str, number: int, pieces: Sequence[int]) -> None:
        """Says that row `number` of `stream` is these pieces, one behind the other."""
        self.rows.setdefault(stream, {})[number] = list(pieces)

    def flush(self) -> None:
        if self._waiting:
            save_file({"vectors": torch.cat(self._waiting)}, self._folder / f"shard-{self._n_shards:05d}.safetensors")
            self._waiting, self._start, self._n_shards = [], 0, self._n_shards + 1


class Kept:
    """Rows on the disk."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        names = sorted(name for name in manifest["files"] if name.endswith(".safetensors"))
        self._shards = [safe_open(folder / name, framework="pt").get_slice("vectors") for name in names]
        self._pieces, self._rows = manifest["pieces"], manifest["rows"]
        self.about: dict[str, Any] = manifest["about"]

    def row(self, stream: str, number: int) -> Tensor:
        """Row `number` of `stream` [T, D], on the CPU."""
        found = [self._pieces[piece] for piece in self._rows[stream][str(number)]]
        return torch.cat([self._shards[shard][start:stop] for shard, start, stop in found])


def keep(
    folder: Path, *, identity: Mapping[str, Any], n_bytes: int, fill: Callable[[Writer], None], no_room: NoRoom
) -> Kept:
    """The rows in `folder` when they are whole and have this `identity` (JSON); otherwise `fill` writes them.

    `n_bytes` is what they will take at most. Raises SpecError when the disk has no room for them, StorageError when it
    fills up or fails meanwhile.
    """
    identity = json.loads(json.dumps(identity))
    manifest = _read(folder)
    if manifest is None or manifest["identity"] != identity:
        shutil.rmtree(folder, ignore_errors=True)
        _check_room(folder, n_bytes, no_room)
        manifest = _write(folder, identity, fill)
    return Kept(folder, manifest)


def tell_progress(emit: Emitter, done: int, total: int, at_once: int, text: str) -> None:
    """A progress event about a hundred times in all, and when everything is done."""
    every = max(1, total // (100 * at_once)) * at_once
    if done == total or done % every == 0:
        emit("progress", done=done, total=total, text=text)


def _write(folder: Path, identity: Mapping[str, Any], fill: Callable[[Writer], None]) -> dict[str, Any]:
    with staged_folder(folder) as staged:
        writer = Writer(staged)
        fill(writer)
        writer.flush()
        rows = {stream: {str(n): pieces for n, pieces in found.items()} for stream, found in writer.rows.items()}
        manifest = {"schema": _SCHEMA, "identity": identity, "about": writer.about, "pieces": writer.pieces,
                    "rows": rows, "files": stamp(staged)}  # fmt: skip
        write_json(staged / MANIFEST, manifest)
    return manifest


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        manifest: Any = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    wanted = {"schema", "identity", "about", "pieces", "rows", "files"}
    if not isinstance(manifest, dict) or set(manifest) != wanted or manifest["schema"] != _SCHEMA:
        return None
    return None if first_damage(folder, manifest["files"]) else manifest


def _check_room(folder: Path, n_bytes: int, no_room: NoRoom) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    if n_bytes > _MOST_OF_DISK * shutil.disk_usage(folder.parent).free:
        raise no_room.error(folder, n_bytes)
