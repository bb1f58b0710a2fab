"""Backbones of every tiny shape, through the real loader."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from ml.backbone import Backbone, load_backbone
from tests.ml.tiny import save_tiny

LABELS = ("blue", "green", "red")


@cache
def _saved(shape: str, changes: tuple[tuple[str, object], ...]) -> tuple[Path, TemporaryDirectory[str]]:
    """The model's folder, and what removes it when the process ends."""
    folder = TemporaryDirectory(prefix="coldframe-tiny-")
    return save_tiny(Path(folder.name) / f"tiny-{shape}", shape, **dict(changes)), folder


def tiny_backbone(shape: str, *, labels: tuple[str, ...] = LABELS, **changes: object) -> Backbone:
    """A fresh backbone of `shape`; the folder behind it is made once a process."""
    return load_backbone(_saved(shape, tuple(sorted(changes.items())))[0], labels=labels)
