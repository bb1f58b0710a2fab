"""`python -m ml evaluate [SPEC.json] --models DIR --dataset DIR [--base NAME] [--adapter DIR]`: measure one subject.

The subject is an artifact of any technique, or the plain model. What decides how rows are read (the base model, the
longest row, precision, labels) comes from the options, else from SPEC.json, else from the artifact's own manifest.
"""

from __future__ import annotations

import argparse
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ml.artifact import Manifest, load_adapter, verify
from ml.backbone import model_folder
from ml.cli_train import load_backbone_for, read_spec
from ml.data.rows import SPLITS, Dataset, read_dataset
from ml.devices import device_named
from ml.errors import DataError, SpecError
from ml.evaluate.report import measure
from ml.limits import usable_length
from ml.looks import short_numbers
from ml.objectives import objective_for
from ml.specs import METHODS, TrainSpec, train_spec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", type=Path, nargs="?", help="a training spec: its base model and settings are used")
    parser.add_argument("--models", type=Path, required=True, help="the models folder")
    parser.add_argument("--base", default="", help="name of the base model; default: the spec's or the adapter's")
    parser.add_argument("--adapter", type=Path, help="an artifact's folder; without it the plain model is measured")
    parser.add_argument("--dataset", type=Path, required=True, help="the data set version's folder")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--rows", type=int, default=100, help="at most this many rows, from the split's start")
    parser.add_argument("--max-length", type=int, default=0, help="tokens of the longest row; 0: the spec's")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's own choice")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured, as the spec that it was or would be trained with."""

    spec: TrainSpec
    adapter: Path | None
    labels: tuple[str, ...]
    """Of an adapter with a classifier, in the order of its outputs."""

    @property
    def name(self) -> str:
        return "adapter" if self.adapter else "plain"


def run(args: argparse.Namespace) -> int:
    if args.threads > 0:
        torch.set_num_threads(args.threads)
    start = time.monotonic()
    dataset = read_dataset(args.dataset)
    n_rows = min(args.rows, len(dataset.splits[args.split]))
    if n_rows < 1:
        raise DataError(f"There are no rows to measure in the {args.split} split.", hint="Choose another split.")
    subject = _subject(args, dataset)
    folder = model_folder(args.models, subject.spec.base)
    trained_on = replace(dataset, labels=list(subject.labels or dataset.labels))
    backbone = load_backbone_for(subject.spec, folder, trained_on, device=device_named(args.device))
    objective = objective_for(subject.spec, backbone, dataset, usable_length(subject.spec, backbone.model.config))
    if not subject.adapter and not objective.measures_plain:
        raise SpecError(
            f"{subject.spec.base} is an {backbone.family.replace('_', '-')} model: it has no classifier to measure.",
            hint="Give the adapter whose classifier is to be measured with --adapter.",
            field="adapter",
        )
    model: Any = load_adapter(backbone, subject.adapter) if subject.adapter else backbone.model
    args.emit("started", base=subject.spec.base, subject=subject.name, n_rows=n_rows)
    with short_numbers(backbone.model):
        report = measure(objective, model, dataset, args.split, n_rows=n_rows)
    args.emit("eval", step=0, split=args.split, subject=subject.name, **report.as_dict())
    args.emit("finished", metrics=report.metrics, seconds=time.monotonic() - start)
    return 0


def _subject(args: argparse.Namespace, dataset: Dataset) -> Subject:
    """Raises SpecError when neither options, spec nor adapter name a base model."""
    manifest = verify(args.adapter) if args.adapter else None
    spec = read_spec(args.spec) if args.spec else _spec_of(manifest, args.base, dataset)
    if manifest is not None and manifest.method != spec.method:
        raise SpecError(
            f"The spec is for {METHODS[spec.method].label}, the adapter is {METHODS[manifest.method].label}.",
            hint="Leave the spec out: the adapter brings its own.",
            field="method",
        )
    options = {name: value for name, value in spec.options.items() if name != "cache_activations"}  # only for training
    changes: dict[str, Any] = {"base": args.base or spec.base, "options": options}
    if args.max_length:
        changes["max_length"] = args.max_length
    labels = tuple(manifest.labels) if manifest else ()
    return Subject(spec=replace(spec, **changes), adapter=args.adapter, labels=labels)


def _spec_of(manifest: Manifest | None, base: str, dataset: Dataset) -> TrainSpec:
    """The spec that the artifact was trained with; of a foreign adapter what is known, beside the defaults."""
    plain = {"method": "lora", "base": base, "dataset": "-", "dataset_sha256": dataset.content_sha256}
    if manifest is not None:
        known = {**plain, "method": manifest.method, "base": base or manifest.base["name"]}
        for given in (manifest.spec, {**known, "options": manifest.spec.get("options")}):
            with suppress(SpecError):
                return train_spec(given)
        return train_spec(known)
    if not base:
        raise SpecError("What is to be measured is not known.", hint="Give a spec, --adapter or --base.", field="base")
    return train_spec(plain)
