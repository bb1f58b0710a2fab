"""`python -m ml train SPEC.json --models DIR --dataset DIR --workdir DIR`: one run, in a process of its own.

Running the same command again goes on where the work folder left off. SIGTERM and SIGINT: checkpoint, then exit 75.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ml.artifact import Manifest, verify
from ml.backbone import Backbone, load_backbone, model_folder
from ml.checkpoint import trainables
from ml.data.rows import Dataset, encode_rows, read_dataset
from ml.errors import ArtifactError, SpecError
from ml.events import Emitter
from ml.methods import build
from ml.plan import plan
from ml.specs import TrainSpec, train_spec
from ml.train import Trainer, memory_advice, peak_bytes, usable_length

STOPPED = 75


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", type=Path, help="the training spec, a JSON file")
    parser.add_argument("--models", type=Path, required=True, help="the models folder")
    parser.add_argument("--dataset", type=Path, required=True, help="the data set version's folder")
    parser.add_argument("--workdir", type=Path, required=True, help="checkpoints and the result (out/) go here")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's own choice")


def run(args: argparse.Namespace) -> int:
    with stop_signals() as asked_to_stop:
        return _run(args, asked_to_stop)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """While open, SIGTERM and SIGINT only add themselves to the list."""
    received: list[int] = []
    before = {n: signal.signal(n, lambda got, _frame: received.append(got)) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(args: argparse.Namespace, asked_to_stop: list[int]) -> int:
    if args.threads > 0:
        torch.set_num_threads(args.threads)
    start = time.monotonic()
    spec = read_spec(args.spec)
    folder = model_folder(args.models, spec.base)
    dataset = read_dataset(args.dataset, expected_sha256=spec.dataset_sha256)
    args.workdir.mkdir(parents=True, exist_ok=True)
    manifest = finished_artifact(args.workdir / "out", spec)
    device = device_named(args.device)
    if manifest is None:
        args.emit("phase", text=f"loading {spec.base}")
        backbone = load_backbone(folder, dtype=torch.bfloat16 if device == "cuda" else torch.float32, device=device)
        trainer = prepare(spec, backbone, dataset, args.workdir, args.emit)
        trainer.should_stop = lambda: bool(asked_to_stop)
        with memory_advice(spec, trainer.needed, device):
            manifest = trainer.run()
        if manifest is None:
            args.emit("stopped", step=trainer.progress.step)
            return STOPPED
    args.emit(
        "finished",
        out=str(args.workdir / "out"),
        metrics=manifest.metrics,
        peak_bytes=peak_bytes(device),
        seconds=time.monotonic() - start,
    )
    return 0


def read_spec(path: Path) -> TrainSpec:
    """The checked spec in a JSON file. Raises SpecError."""
    try:
        given: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"The spec {path} cannot be read: {error}.", hint="Give a JSON file.") from error
    return train_spec(given)


def device_named(name: str) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise SpecError("There is no CUDA device here.", hint="Use --device cpu or auto.", field="device")
    return "cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu"


def finished_artifact(out: Path, spec: TrainSpec) -> Manifest | None:
    """The manifest of a result that is already whole in `out`: the process died between saving and saying so."""
    if not out.exists():
        return None
    try:
        manifest = verify(out)
    except ArtifactError:
        return None
    return manifest if manifest.spec == spec.as_dict() else None


def prepare(spec: TrainSpec, backbone: Backbone, dataset: Dataset, workdir: Path, emit: Emitter) -> Trainer:
    """Everything that is checked and made before the first step."""
    max_length = usable_length(spec, backbone.model.config)
    examples = encode_rows(dataset.splits["train"], backbone.tokenizer, max_length)
    n_cut = sum(example.n_cut > 0 for example in examples)
    if n_cut:
        emit("phase", text=f"{n_cut} of {len(examples)} training rows are longer than {max_length} tokens and cut")
    device, longest = str(backbone.model.device.type), max(len(example.ids) for example in examples)
    needed = plan(spec, backbone.model.config, device=device, dtype=backbone.model.dtype, longest=longest)
    emit("plan", **needed.as_dict())
    with memory_advice(spec, needed, device):
        model = build(backbone, spec.method, spec.options, spec.seed)
    n_trainable = sum(p.numel() for p in trainables(model).values())
    emit("started", n_steps=spec.steps, base=spec.base, method=spec.method, n_trainable=n_trainable, device=device)
    return Trainer(
        spec=spec,
        backbone=backbone,
        model=model,
        dataset=dataset,
        examples=examples,
        needed=needed,
        workdir=workdir,
        emit=emit,
    )
