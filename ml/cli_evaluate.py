"""`python -m ml evaluate --models DIR --base NAME [--adapter DIR] --dataset DIR`: measure one subject on one split."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from ml.artifact import load_adapter
from ml.backbone import load_backbone, model_folder
from ml.data.rows import SPLITS, read_dataset
from ml.errors import DataError
from ml.evaluate.report import measure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", type=Path, required=True, help="the models folder")
    parser.add_argument("--base", required=True, help="name of the base model")
    parser.add_argument("--adapter", type=Path, help="an artifact's folder; without it the plain model is measured")
    parser.add_argument("--dataset", type=Path, required=True, help="the data set version's folder")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--rows", type=int, default=100, help="at most this many rows, from the split's start")
    parser.add_argument("--max-length", type=int, default=512, help="tokens of the longest row")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's own choice")


def run(args: argparse.Namespace) -> int:
    if args.threads > 0:
        torch.set_num_threads(args.threads)
    start = time.monotonic()
    folder = model_folder(args.models, args.base)
    dataset = read_dataset(args.dataset)
    n_rows = min(args.rows, len(dataset.splits[args.split]))
    if n_rows < 1:
        raise DataError(f"There are no rows to measure in the {args.split} split.", hint="Choose another split.")
    backbone = load_backbone(folder)
    model: Any = load_adapter(backbone, args.adapter) if args.adapter else backbone.model
    args.emit("started", base=args.base, subject="adapter" if args.adapter else "plain", n_rows=n_rows)
    report = measure(
        model,
        backbone.tokenizer,
        dataset,
        args.split,
        n_rows=n_rows,
        max_length=args.max_length,
        at_once=16,
    )
    subject = "adapter" if args.adapter else "plain"
    args.emit("eval", step=0, split=args.split, subject=subject, **report.as_dict())
    args.emit("finished", metrics=report.metrics, seconds=time.monotonic() - start)
    return 0
