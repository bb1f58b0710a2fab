"""`python -m ml train SPEC --models DIR --dataset DIR --workdir DIR`: one run, in a process of its own.

SPEC is JSON or YAML. Running the same command again goes on where the work folder left off. SIGTERM and SIGINT:
checkpoint, then exit 75. Several processes: `accelerate launch -m ml train …` or `torchrun -m ml train …`, each with
the same arguments; a batch's rows are divided among them.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from ml.artifact import Manifest, verify
from ml.backbone import Backbone, family_of, load_backbone, model_folder
from ml.checkpoint import trainables
from ml.data.rows import Dataset, read_dataset
from ml.devices import device_named, dtype_on
from ml.errors import ArtifactError, ColdframeError, SpecError
from ml.events import Emitter
from ml.limits import memory_advice, peak_bytes, usable_length
from ml.methods import build, enable_checkpointing
from ml.objectives import Objective, objective_for
from ml.plan import Plan, figures, plan
from ml.processes import Processes
from ml.specs import METHODS, TrainSpec, check_fits, train_spec
from ml.train import Trainer

STOPPED = 75

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", type=Path, help="the training spec, a JSON or YAML file")
    parser.add_argument("--models", type=Path, default=Path("var/models"), help="the models folder (var/models)")
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
    check_fits(METHODS[spec.method], family=family_of(folder), task=dataset.task)
    args.workdir.mkdir(parents=True, exist_ok=True)
    device = device_named(args.device)
    processes = Processes(device=device)
    emit: Any = args.emit if processes.is_main else _silent
    found = finished_artifact(args.workdir / "out", spec)
    manifest, kept_step = found, spec.steps
    try:
        if found is None:
            emit("phase", text=f"loading {spec.base}")
            backbone = load_backbone_for(spec, folder, dataset, device=processes.device)
            trainer = prepare(spec, backbone, dataset, args.workdir, emit, processes=processes)
            trainer.should_stop = lambda: bool(asked_to_stop)
            with memory_advice(spec, trainer.needed, device):
                manifest = trainer.run()
            kept_step = trainer.kept_step
            if manifest is None and not (trainer.is_done and not processes.is_main):
                emit("stopped", step=trainer.progress.step)
                return STOPPED
    finally:
        processes.close()
    if manifest is not None:
        emit(
            "finished",
            out=str(args.workdir / "out"),
            metrics=manifest.metrics,
            kept_step=kept_step,
            peak_bytes=peak_bytes(device),
            seconds=time.monotonic() - start,
        )
    return 0


def _silent(event: str, **values: Any) -> None:
    """Only the main process speaks."""


def read_spec(path: Path) -> TrainSpec:
    """The checked spec in a JSON or YAML file. Raises SpecError."""
    try:
        text = path.read_text(encoding="utf-8")
        given: Any = yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SpecError(f"The spec {path} cannot be read: {error}.", hint="Give a JSON or YAML file.") from error
    return train_spec(given)


def dtype_for(spec: TrainSpec, device: str) -> torch.dtype:
    """What the frozen model computes in: bfloat16 when asked for, or by itself on a GPU that has it."""
    if spec.precision == "auto":
        return dtype_on(device)
    return torch.bfloat16 if spec.precision == "bfloat16" else torch.float32


def load_backbone_for(spec: TrainSpec, folder: Path, dataset: Dataset, *, device: str) -> Backbone:
    """The base model as the technique wants it: quantized, with a classifier for the labels, in its precision."""
    needs_labels = family_of(folder) == "encoder" or METHODS[spec.method].storage == "head"
    return load_backbone(
        folder,
        dtype=dtype_for(spec, device),
        device=device,
        labels=dataset.labels if needs_labels and dataset.task == "classification" else None,
        quantization="nf4" if "double_quantization" in spec.options else "",
        double_quantization=bool(spec.options.get("double_quantization", True)),
        seed=spec.seed,
    )


def finished_artifact(out: Path, spec: TrainSpec) -> Manifest | None:
    """The manifest of a result that is already whole in `out`: the process died between saving and saying so."""
    if not out.exists():
        return None
    try:
        manifest = verify(out)
    except ArtifactError:
        return None
    return manifest if manifest.spec == spec.as_dict() else None


def prepare(
    spec: TrainSpec, backbone: Backbone, dataset: Dataset, workdir: Path, emit: Emitter, *,
    processes: Processes | None = None, lesson: Lesson | None = None, is_rival: bool = False,
) -> Trainer:  # fmt: skip
    """Everything that is checked and made before the first step. A `lesson` is one that another run had made."""
    processes = processes or Processes(device=str(backbone.model.device))
    if spec.batch_size < processes.n:
        raise SpecError(
            f"{processes.n} processes cannot divide {spec.batch_size} rows a step among them.",
            hint="Raise the rows per step, or start fewer processes.",
            field="batch_size",
        )
    lesson = lesson or lesson_for(spec, backbone, dataset, emit)
    objective, items, needed = lesson.objective, lesson.items, lesson.needed
    device = str(backbone.model.device.type)
    with memory_advice(spec, needed, device):
        model = build(backbone, spec.method, spec.options, spec.seed)
    if spec.gradient_checkpointing:
        enable_checkpointing(backbone.model, backbone.name)
    n_trainable = sum(p.numel() for p in trainables(model).values())
    emit("started", n_steps=spec.steps, base=spec.base, method=spec.method, n_trainable=n_trainable, device=device)
    return Trainer(
        spec=spec,
        backbone=backbone,
        model=model,
        dataset=dataset,
        objective=objective,
        items=items,
        needed=needed,
        workdir=workdir,
        emit=emit,
        processes=processes,
        is_rival=is_rival,
    )


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is learnt from, made ready: runs that differ in learning rate or seed alone may share it."""

    objective: Objective
    items: list[Any]
    needed: Plan | None


def lesson_for(spec: TrainSpec, backbone: Backbone, dataset: Dataset, emit: Emitter) -> Lesson:
    """The encoded training rows and the memory plan. Raises SpecError or DataError."""
    max_length = usable_length(spec, backbone.model.config)
    objective = objective_for(spec, backbone, dataset, max_length)
    items = objective.encode(dataset.splits["train"])
    n_cut = sum(item.n_cut > 0 for item in items)
    if n_cut:
        emit("phase", text=f"{n_cut} of {len(items)} training rows are longer than {max_length} tokens and cut")
    return Lesson(objective=objective, items=items, needed=planned(spec, backbone, dataset, objective, items, emit))


def planned(
    spec: TrainSpec, backbone: Backbone, dataset: Dataset, objective: Objective, items: list[Any], emit: Emitter
) -> Plan | None:
    """The memory plan, also as an event; None, with a warning, for a model that cannot be simulated."""
    try:
        needed = plan(
            spec,
            backbone.model.config,
            device=str(backbone.model.device.type),
            dtype=backbone.model.dtype,
            family=backbone.family,
            labels=len(dataset.labels),
            label_tokens=objective.label_lengths() if dataset.labels else (),
            **figures(items),
        )
    except ColdframeError:
        raise
    except Exception as error:  # a plan is advice: a model whose forward asks for values still trains
        logger.warning("no memory plan for %s", backbone.name, exc_info=True)
        reason = f"{type(error).__name__}: {error}"[:200]
        emit("warning", text=f"The memory of this run could not be planned ({reason}); it goes on without a plan.")
        return None
    emit("plan", **needed.as_dict())
    return needed
