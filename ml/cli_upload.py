"""`python -m ml upload --adapter DIR --repo NAME [--merged]`: put an adapter, or the model that it makes,
on the Hugging Face Hub with the token in HF_TOKEN."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from ml.hub import go_online, upload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--adapter", type=Path, required=True, help="an artifact's folder")
    parser.add_argument("--repo", required=True, help="the repository, name or owner/name; made when it is missing")
    parser.add_argument("--public", action="store_true", help="make a new repository public; else it is private")
    parser.add_argument("--merged", action="store_true", help="upload base model and adapter as one whole model")
    parser.add_argument("--models", type=Path, default=Path("var/models"), help="the models folder (var/models)")
    parser.add_argument(
        "--scratch", type=Path, help="where the merged model is written on the way (default: beside it)"
    )


def run(args: argparse.Namespace) -> int:
    start = time.monotonic()
    token = go_online()
    from ml.artifact import verify
    from ml.export import check_merges, merge

    manifest = verify(args.adapter)
    if args.merged:
        check_merges(manifest)
    with tempfile.TemporaryDirectory(dir=args.scratch, prefix=".upload-") as scratch:
        folder = args.adapter
        if args.merged:
            args.emit("progress", done=0, total=2, text="Merging")
            folder = Path(scratch) / "model"
            merge(args.adapter, models_dir=args.models, into=folder)
        args.emit("progress", done=1, total=2, text=f"Uploading to {args.repo}")
        what = f"{manifest.method} on {manifest.base.get('name')}"
        url = upload(folder, repo=args.repo, token=token, is_public=args.public, message=f"Coldframe: {what}")
    args.emit("progress", done=2, total=2, text="")
    args.emit("finished", url=url, seconds=time.monotonic() - start)
    return 0
