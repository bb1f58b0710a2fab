"""How fast training is: against a plain Trainer script, with features and activations kept, and from a cold start.

    python bench/training.py [--model var/models/smollm2-135m-instruct] [--data ../shared/data] [--quick]
                             [--clock cpu --threads 1]

* A step of LoRA ÷ the same step by transformers' Trainer (`bench/training_plain.py`): as shipped, and with the shared
  start of the prompts switched off, so that what is left is the loop itself and the output layer, which sees only the
  positions that are learned.
* An epoch of the classifier head after the first ÷ the first, which computes the features.
* An epoch of the last two layers, 16 rows a step, on kept activations ÷ one that goes the whole way; both share
  prompts. The fewer rows a step, the more the output layer's and the optimizer's fixed cost weigh in the ratio.
* Seconds from starting the child process, which is what a claimed run does first, to its first step: with the files of
  model and libraries put out of the page cache (as far as no other process holds them), and again right after.

Compared halves take turns, and the turn changes each repetition; ratios are medians of the repetitions' own ratios. On
a machine that others use, `--clock cpu --threads 1` counts this process' processor seconds (the start-up is wall clock
always). Ends in one JSON line. --quick takes under 5 minutes on two cores.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the project's folder instead of bench/, whose files are called like libraries
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
import transformers

from bench.engine import processor
from bench.study_sets import SETS, make_folder
from bench.training_plain import plain_steps
from ml.cli_train import load_backbone_for, prepare
from ml.data.rows import Dataset, read_dataset
from ml.specs import TrainSpec, train_spec

ROOT = Path(__file__).resolve().parent.parent
Clock = Callable[[], float]
NEVER = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Sizes:
    repetitions: int
    lora_steps: int
    head_rows: int
    head_epochs: int
    lower_rows: int
    lower_epochs: int
    starts: int


FULL = Sizes(repetitions=5, lora_steps=8, head_rows=512, head_epochs=6, lower_rows=160, lower_epochs=4, starts=3)
QUICK = Sizes(repetitions=3, lora_steps=4, head_rows=192, head_epochs=5, lower_rows=48, lower_epochs=3, starts=1)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every measurement needs."""

    model: Path
    folder: Path
    """The data set."""
    dataset: Dataset
    work: Path
    clock: Clock

    def spec(self, method: str, *, steps: int, batch_size: int, **options: Any) -> TrainSpec:
        return train_spec({
            "method": method, "base": self.model.name, "dataset": "snips7@1", "dataset_sha256": self.dataset.sha256,
            "steps": steps, "batch_size": batch_size, "micro_batch_size": batch_size, "eval_rows": 0,
            "eval_every": NEVER, "checkpoint_every": NEVER, "flat_steps": 0, "precision": "float32",
            "options": options,
        })  # fmt: skip

    def first(self, n_rows: int) -> Dataset:
        return replace(self.dataset, splits={**self.dataset.splits, "train": self.dataset.splits["train"][:n_rows]})


def our_steps(bench: Bench, spec: TrainSpec, dataset: Dataset, *, sharing: bool = True) -> list[float]:
    """When our loop began (with what it computes once), and when each of its steps had ended."""
    backbone = load_backbone_for(spec, bench.model, dataset, device="cpu")
    at: list[float] = []

    def emit(event: str, **_: Any) -> None:
        if event == "step":
            at.append(bench.clock())

    with tempfile.TemporaryDirectory(dir=bench.work) as workdir:
        trainer = prepare(spec, backbone, dataset, Path(workdir), emit)
        if not sharing:
            trainer.objective.whole_rows = True
        at.append(bench.clock())
        trainer.run()
    return at


def turns(repetition: int, kinds: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Each kind's figure, measured one after the other; every repetition begins with another."""
    names = list(kinds)
    names = names[repetition % len(names) :] + names[: repetition % len(names)]
    figures = {}
    for name in names:
        figures[name] = kinds[name]()
        gc.collect()
    return figures


def lora(bench: Bench, sizes: Sizes, repetition: int) -> dict[str, float]:
    """Median seconds of a step, without the first two."""
    spec = bench.spec("lora", steps=sizes.lora_steps + 2, batch_size=8)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=spec.options["rank"], lora_alpha=spec.options["alpha"],
                             lora_dropout=spec.options["dropout"], target_modules="all-linear")  # fmt: skip

    def ours(*, sharing: bool) -> float:
        at = our_steps(bench, spec, bench.dataset, sharing=sharing)
        return statistics.median(b - a for a, b in pairwise(at[2:]))

    def plain() -> float:
        backbone = load_backbone_for(spec, bench.model, bench.dataset, device="cpu")
        examples = prepare(spec, backbone, bench.dataset, bench.work / "unused", lambda *_, **__: None).items
        steps = plain_steps(spec, examples, bench.model, config, bench.work / "plain", bench.clock)
        return statistics.median(steps[2:])

    return turns(repetition, {"ours": lambda: ours(sharing=True), "unshared": lambda: ours(sharing=False),
                              "plain": plain})  # fmt: skip


def epochs(bench: Bench, spec: TrainSpec, dataset: Dataset) -> tuple[float, float]:
    """Seconds of the first epoch (what is computed once included), and the mean of those after."""
    per_epoch = len(dataset.splits["train"]) // spec.batch_size
    at = our_steps(bench, spec, dataset)
    n_later = len(at) // per_epoch - 1
    return at[per_epoch] - at[0], (at[per_epoch * (1 + n_later)] - at[per_epoch]) / n_later


def head(bench: Bench, sizes: Sizes, repetition: int) -> dict[str, float]:
    steps = sizes.head_rows // 64 * sizes.head_epochs
    first, later = epochs(bench, bench.spec("head", steps=steps, batch_size=64), bench.first(sizes.head_rows))
    return {"first": first, "later": later}


def last_k(bench: Bench, sizes: Sizes, repetition: int) -> dict[str, float]:
    dataset, figures = bench.first(sizes.lower_rows), {}

    def kept() -> float:
        steps = sizes.lower_rows // 16 * sizes.lower_epochs
        spec = bench.spec("last_k", steps=steps, batch_size=16, k=2, cache_activations=True)
        figures["kept_first"], later = epochs(bench, spec, dataset)
        return later

    def uncached() -> float:
        spec = bench.spec("last_k", steps=sizes.lower_rows // 16 * 2, batch_size=16, k=2, cache_activations=False)
        return epochs(bench, spec, dataset)[1]

    return turns(repetition, {"kept_later": kept, "uncached": uncached}) | figures


def put_out_of_cache(folder: Path) -> None:
    """Asks the kernel to forget the files' contents; it keeps what another process has mapped."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > 1 << 16:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def start_up(bench: Bench, sizes: Sizes, repetition: int) -> dict[str, float]:
    """Seconds to the first step's end, cold and then warm."""
    spec_file = bench.work / "start.json"
    spec_file.write_text(json.dumps(bench.spec("lora", steps=1, batch_size=8).as_dict()), encoding="utf-8")
    for folder in (bench.model, Path(torch.__file__).parent, Path(transformers.__file__).parent):
        put_out_of_cache(folder)
    return {"cold": _start(bench, spec_file), "warm": _start(bench, spec_file)}


def _start(bench: Bench, spec_file: Path) -> float:
    with tempfile.TemporaryDirectory(dir=bench.work) as workdir:
        command = [sys.executable, "-m", "ml", "train", str(spec_file), "--models", str(bench.model.parent),
                   "--dataset", str(bench.folder), "--workdir", workdir]  # fmt: skip
        started = time.perf_counter()
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if json.loads(line)["event"] == "step":
                    seconds = time.perf_counter() - started
                    child.stdout.read()
                    return seconds
    raise SystemExit("the child ended before its first step")


PARTS: dict[str, Callable[[Bench, Sizes, int], dict[str, float]]] = {
    "lora": lora, "head": head, "last_k": last_k, "start_up": start_up
}  # fmt: skip
RATIOS = {
    "step_time_ratio": ("lora", "ours", "plain"),
    "step_time_ratio_unshared": ("lora", "unshared", "plain"),
    "head_epoch_ratio": ("head", "later", "first"),
    "last_k_epoch_ratio": ("last_k", "kept_later", "uncached"),
    "last_k_first_epoch_ratio": ("last_k", "kept_first", "uncached"),
}
"""Each: the part, what is divided, by what."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "var/models/smollm2-135m-instruct")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data", help="the folder that holds snips7")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--quick", action="store_true", help="fewer steps, rows and repetitions")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="measure these parts only")
    args = parser.parse_args()
    sizes = QUICK if args.quick else FULL
    torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        rows = {"train_rows": sizes.head_rows, "valid_rows": 8, "test_rows": 8}
        folder, _ = make_folder(SETS[0], rows, args.data, work)
        clock = time.perf_counter if args.clock == "wall" else time.process_time
        bench = Bench(model=args.model.resolve(), folder=folder, dataset=read_dataset(folder), work=work, clock=clock)
        found = {
            name: measured(name, bench, sizes, sizes.starts if name == "start_up" else sizes.repetitions)
            for name in args.only
        }
    report(args, sizes, found)


def measured(name: str, bench: Bench, sizes: Sizes, n: int) -> list[dict[str, float]]:
    found = []
    for repetition in range(n):
        found.append(PARTS[name](bench, sizes, repetition))
        shown = {kind: round(seconds, 3) for kind, seconds in found[-1].items()}
        print(f"{name} {repetition + 1}/{n}", shown, f"load {os.getloadavg()[0]:.1f}", flush=True)
    return found


def report(args: Any, sizes: Sizes, found: dict[str, list[dict[str, float]]]) -> None:
    def ratio(part: str, ours: str, theirs: str) -> float:
        """Median of the ratios within each repetition: neighbours in time share their noise."""
        return round(statistics.median(one[ours] / one[theirs] for one in found[part]), 4)

    seconds = {part: {name: round(statistics.median(one[name] for one in ones), 4) for name in ones[0]}
               for part, ones in found.items()}  # fmt: skip
    figures = {
        **{name: ratio(*parts) for name, parts in RATIOS.items() if parts[0] in found},
        **{f"start_{kind}_s": figure for kind, figure in seconds.get("start_up", {}).items()},
        "seconds": seconds, "sizes": vars(sizes), "base": args.model.name, "threads": args.threads,
        "clock": args.clock, "load": os.getloadavg(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "transformers": transformers.__version__, "peft": peft.__version__},
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
