"""`python -m ml study SPEC --models DIR --dataset DIR --workdir DIR`: measure techniques on one data set, all searched.

SPEC is JSON or YAML (`ml.specs.study`). Everything lies in DIR/out when it is done: board.json, a cell and its answered
rows for each technique and seed, artifacts, and the report as HTML, Markdown and CSV. Running the same command again
goes on where it left off; SIGTERM and SIGINT: checkpoint, then exit 75. `--before` takes over the finished cells of an
earlier `out`, for a study that got further techniques, seeds or budget.
"""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from ml.backbone import model_folder
from ml.cli_train import STOPPED, stop_signals
from ml.data.rows import read_dataset
from ml.devices import device_named
from ml.errors import SpecError
from ml.families import family_of
from ml.specs.measures import has_number
from ml.specs.study import StudySpec, study_spec
from ml.study.asking import Asking
from ml.study.base import Base
from ml.study.budget import Budget
from ml.study.drawing import drawn
from ml.study.passages import read_passages
from ml.study.planning import plan_of, planned
from ml.study.runner import Setting, Study
from ml.study.training import Interrupted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", type=Path, help="the study's spec, a JSON or YAML file")
    parser.add_argument("--models", type=Path, default=Path("var/models"), help="the models folder (var/models)")
    parser.add_argument("--dataset", type=Path, required=True, help="the data set version's folder")
    parser.add_argument("--workdir", type=Path, required=True, help="checkpoints and the result (out/) go here")
    parser.add_argument("--before", type=Path, help="the out folder of the same study before it was extended")
    parser.add_argument("--passages", type=Path, help="what a collection has for the test rows (ml/study/passages.py)")
    parser.add_argument("--embedder", default="minilm-l6", help="the embedding model that finds nearest examples")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's own choice")


def run(args: argparse.Namespace) -> int:
    if args.threads > 0:
        torch.set_num_threads(args.threads)
    with stop_signals() as asked_to_stop:
        try:
            return _run(args, asked_to_stop)
        except Interrupted:
            args.emit("stopped", step=0)
            return STOPPED


def _run(args: argparse.Namespace, asked_to_stop: list[int]) -> int:
    folder, about = args.dataset, _about(args.dataset)
    base_folder = model_folder(args.models, str(_given(args.spec).get("base")))
    spec = study_spec(_given(args.spec), task=str(about.get("task")), family=family_of(base_folder))
    dataset = drawn(read_dataset(folder, expected_sha256=spec.dataset_sha256), spec)
    _check_metric(spec, [row.completion for row in dataset.splits["test"]])
    args.workdir.mkdir(parents=True, exist_ok=True)
    device = device_named(args.device)
    base, mapping = Base(base_folder, dataset, device=device), dict(about.get("mapping") or {})
    passages = read_passages(args.passages) if args.passages else None
    asking = Asking(spec, dataset, mapping, _Embedder(args.models, args.embedder, device), passages)
    budget = Budget(args.workdir / "spent.json", limit_s=spec.budget_s, costs={})
    with budget.spends("overhead"):
        expected = planned(spec, base_folder, dataset, mapping, device, passages=passages.example() if passages else ())
    budget.costs = {one.technique: one.cost for one in expected if one.cost is not None}
    args.emit("plan", **plan_of(spec, expected))
    setting = Setting(
        spec=spec, dataset=dataset, mapping=mapping, workdir=args.workdir, before=args.before,
        command=_command(args), started_at=_started_at(args.workdir),
    )  # fmt: skip
    study = Study(setting, base=base, asking=asking, budget=budget, emit=args.emit,
                  should_stop=lambda: bool(asked_to_stop))  # fmt: skip
    args.emit("started", n_steps=len(study.cells), base=spec.base, device=device)
    with budget.spends("load"):
        args.emit("phase", text=f"loading {spec.base}")
        base.load(study.doing.any_spec())
    if args.passages:
        study.kept.put_passages(args.passages)
    with long_lived():
        board = study.run()
    best = next(iter(board["entries"]), None)
    metrics = {spec.metric: best["value"]} if best else {}
    args.emit("finished", out=str(args.workdir / "out"), metrics=metrics, seconds=budget.spent_s)
    return 0


@contextmanager
def long_lived() -> Iterator[None]:
    """What is loaded by now stays: the search for garbage between two trainings, else a third of a second, passes it
    over."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Embedder:
    """The embedding model, loaded when it is first asked for."""

    def __init__(self, models: Path, name: str, device: str) -> None:
        self._where, self._loaded = (models, name, device), None

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        from ml.retrieval.embed import load_embedder

        models, name, device = self._where
        loaded: Any = self._loaded or load_embedder(models, name, device=device)
        self._loaded = loaded
        found: NDArray[np.float32] = loaded.embed(texts)
        return found


def _given(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        given: Any = yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SpecError(f"The spec {path} cannot be read: {error}.", hint="Give a JSON or YAML file.") from error
    if not isinstance(given, dict):
        raise SpecError(f"A study's spec must be an object, got {type(given).__name__}.")
    return given


def _about(folder: Path) -> dict[str, Any]:
    """dataset.json, of which `read_dataset` checks what matters."""
    try:
        found = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _check_metric(spec: StudySpec, expected: Sequence[str]) -> None:
    if spec.metric == "numeric" and not all(has_number(text) for text in expected):
        raise SpecError("The numeric answer needs a number in every expected answer, and some here have none.",
                        hint="Choose another metric.", field="metric")  # fmt: skip


def _command(args: argparse.Namespace) -> str:
    """What makes this study again, without this machine's folders."""
    words = ["python", "-m", "ml", "study", args.spec.name, "--dataset", args.dataset.name, "--device", args.device]
    words += ["--passages", args.passages.name] if args.passages else []
    return shlex.join([*words, *(["--threads", str(args.threads)] if args.threads else [])])


def _started_at(workdir: Path) -> str:
    """When it was first started."""
    path = workdir / "started_at"
    if not path.is_file():
        path.write_text(datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds"), encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
