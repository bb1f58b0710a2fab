"""Files that are there whole or not at all: written to a staging folder, flushed to the disk, then renamed.

A crash at any moment leaves the old state or the new one; leftovers of a crash have names beginning with a dot and are
removed by the next writer. `stamp` and `first_damage` are how a folder's manifest records and checks every file.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ml.backbone import sha256_of
from ml.errors import StorageError


def flush_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Sorted, so that equal values give equal bytes."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Of two processes that make the same thing at once, the second waits, then finds the work done."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """An empty folder beside `final` which becomes `final` when the block ends well, and vanishes when it does not.

    Raises StorageError when the disk is full or refuses to write.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for leftover in final.parent.glob(f".{final.name}.*"):
        shutil.rmtree(leftover, ignore_errors=True)
    staged = final.parent / f".{final.name}.{os.getpid()}"
    staged.mkdir()
    try:
        yield staged
        for path in staged.iterdir():
            path.chmod(0o644)
            flush_file(path)
        flush_folder(staged)
        if final.exists():
            shutil.rmtree(final)
        staged.rename(final)
        flush_folder(final.parent)
    except BaseException as error:
        shutil.rmtree(staged, ignore_errors=True)
        if isinstance(error, OSError | SafetensorError):
            raise StorageError(
                f"{final.name} could not be written: {getattr(error, 'strerror', None) or error}.",
                hint=f"Make room on the disk of {final.parent} and start again: what was saved before is still there.",
            ) from error
        raise


def stamp(folder: Path) -> dict[str, dict[str, Any]]:
    """sha256 and size of every file in `folder`."""
    return {p.name: {"sha256": sha256_of(p), "bytes": p.stat().st_size} for p in sorted(folder.iterdir())}


def first_damage(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str:
    """What is wrong with the first file that is not as `files` says, by name; empty when all are."""
    for name, about in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != about["bytes"]:
            return f"{name} has {size} bytes instead of {about['bytes']}"
        if sha256_of(path) != about["sha256"]:
            return f"{name} has other content than its manifest says (sha256 differs)"
    return ""
