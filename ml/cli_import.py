"""`python -m ml import FOLDER_OR_ZIP --models DIR --base NAME --into DIR`: check an adapter that plain peft made and
write it as a Coldframe artifact."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from ml.artifact import artifact_id
from ml.errors import ArtifactError
from ml.foreign import import_adapter
from ml.foreign.unpack import unpack


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="a PEFT adapter's folder, or a zip of one")
    parser.add_argument("--models", type=Path, default=Path("var/models"), help="the models folder (var/models)")
    parser.add_argument("--base", required=True, help="name of the base model in the models folder")
    parser.add_argument("--into", type=Path, required=True, help="the folder to write")
    parser.add_argument(
        "--label", action="append", default=[], help="an encoder's label; once for each, in their order"
    )
    parser.add_argument("--name", default="", help="what the adapter is called in its card")


def run(args: argparse.Namespace) -> int:
    start = time.monotonic()
    args.emit("progress", done=0, total=2, text="Checking the adapter")
    if not args.source.exists():
        raise ArtifactError(f"There is no {args.source}.", hint="Give a folder or a zip.", field="file")
    args.into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.into.parent, prefix=".import-") as scratch:
        folder = args.source if args.source.is_dir() else unpack(args.source, Path(scratch) / "adapter")
        args.emit("progress", done=1, total=2, text="Comparing every tensor with the base model")
        imported = import_adapter(
            folder, models_dir=args.models, base=args.base, into=args.into, labels=args.label, name=args.name
        )
    for notice in imported.notices:
        args.emit("phase", text=notice)
    args.emit("progress", done=2, total=2, text="")
    args.emit(
        "finished", out=str(args.into), id=artifact_id(args.into), method=imported.manifest.method,
        form=imported.manifest.form, n_trainable=imported.n_trainable, notices=list(imported.notices),
        seconds=time.monotonic() - start,
    )  # fmt: skip
    return 0
