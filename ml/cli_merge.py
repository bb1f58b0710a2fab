"""`python -m ml merge --adapter DIR --models DIR --into DIR`: write base model and adapter as one whole model."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ml.export import DTYPES, merge


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--adapter", type=Path, required=True, help="an artifact's folder")
    parser.add_argument("--models", type=Path, default=Path("var/models"), help="the models folder (var/models)")
    parser.add_argument("--into", type=Path, required=True, help="the folder to write")
    parser.add_argument(
        "--dtype", choices=list(DTYPES), default="float32", help="float32 is exact, bfloat16 half as large"
    )


def run(args: argparse.Namespace) -> int:
    start = time.monotonic()

    def progress(done: int, total: int, text: str) -> None:
        args.emit("progress", done=done, total=total, text=text)

    merged = merge(args.adapter, models_dir=args.models, into=args.into, dtype=args.dtype, progress=progress)
    args.emit(
        "finished", out=str(args.into), bytes=merged.n_bytes, dtype=merged.dtype, files=list(merged.files),
        seconds=time.monotonic() - start,
    )  # fmt: skip
    return 0
