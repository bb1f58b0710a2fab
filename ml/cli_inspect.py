"""`python -m ml inspect FOLDER`: check every file of an adapter and say what it is. Loads no model."""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors import safe_open

from ml.artifact import WEIGHTS, artifact_id, verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="an artifact's folder")


def run(args: argparse.Namespace) -> int:
    manifest = verify(args.folder)
    with safe_open(str(args.folder / WEIGHTS), framework="pt") as weights:
        shapes = {name: list(weights.get_slice(name).get_shape()) for name in sorted(weights.keys())}
    args.emit(
        "artifact",
        id=artifact_id(args.folder),
        method=manifest.method,
        form=manifest.form,
        base=manifest.base,
        dataset=manifest.dataset,
        metrics=manifest.metrics,
        versions=manifest.versions,
        bytes=sum(int(about["bytes"]) for about in manifest.files.values()),
        tensors=shapes,
    )
    return 0
