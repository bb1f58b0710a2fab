"""`python -m ml starter --into DIR`: fetch the starter models once."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ml.starter import fetch_starters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--into", type=Path, required=True, help="the models folder")
    parser.add_argument("--verify", action="store_true", help="compare every file's sha256, not only its size")


def run(args: argparse.Namespace) -> int:
    start = time.monotonic()

    def progress(done: int, total: int, text: str) -> None:
        args.emit("progress", done=done, total=total, text=text)

    folders = fetch_starters(args.into, progress=progress, verify=args.verify)
    args.emit("finished", out=str(args.into), models=[f.name for f in folders], seconds=time.monotonic() - start)
    return 0
