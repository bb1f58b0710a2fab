"""How fast the engine is: a batch of many tasks against plain rows, transformers, PEFT and llama.cpp; first tokens.

    python bench/engine.py [--quick] [--clock cpu --threads 1]
    python bench/engine.py --device cuda [--shape 8b]

In each repetition everything is measured once, in turn, so that a noisy machine disturbs all alike; a ratio is formed
within a repetition, and its median is shown beside its goal (ENGINE.md) and the limit that bytes and operations set.
Ends in one JSON line. On a machine that others use, `--clock cpu --threads 1` counts this process' processor seconds:
ratios stay meaningful. `make bench-llamacpp` makes llama.cpp to compare with.
With a device of its own: bench/engine_roofline.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the project's folder instead of bench/, whose files are called like libraries
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
import transformers

from bench import engine_llamacpp, engine_roofline
from bench.engine_batches import (
    N_LORA,
    Adapters,
    Clock,
    cached_first_tokens,
    decode_speed,
    lora_model,
    make_adapters,
    make_soft_prompts,
    many_first_tokens,
    p95,
    serve_seconds,
)
from bench.engine_figures import limits, table
from bench.engine_rivals import continuous_speed, generate_speed, sequential_seconds
from ml.backbone import load_backbone
from ml.data.chat import prompt_ids
from ml.engine.engine import Engine

QUESTION = [{"role": "user", "content": "My lights went out. What should I do?"}]
KINDS = ("plain", "mixed_prefix", "lora16", "mixed_all")
TEMPERATURE = 0.7
ROWS = 16
SERVED = 16
"""Tokens of each answer where tasks are served from request to end, in a batch or one after another."""


class Bench:
    """The models, the engine and its adapters, once for all repetitions."""

    def __init__(self, args: argparse.Namespace, folder: Path, clock: Clock) -> None:
        self.args, self.clock = args, clock
        self.backbone = load_backbone(args.model)
        self.untouched, self.peft = load_backbone(args.model).model, lora_model(load_backbone(args.model).model)
        self.ids = prompt_ids(self.backbone.tokenizer, QUESTION)
        self.adapters: Adapters = make_adapters(folder, self.backbone, self.peft)
        self.vocabulary = self.backbone.model.get_input_embeddings().num_embeddings
        like = folder / self.adapters.prefixes[0]
        self.soft = make_soft_prompts(folder, self.backbone, like, args.registered)
        self.engine = self._engine(ROWS)
        self.wide = self._engine(32) if not args.quick else None
        self.llamacpp = engine_llamacpp.find(args.llamacpp, args.model, args.threads, args.clock)

    def _engine(self, n_slots: int) -> Engine:
        engine = Engine(self.backbone, artifact_folder=lambda sha: self.adapters.folder / sha, n_slots=n_slots,
                        length=1024)  # fmt: skip
        engine.stop_ids.clear()
        engine.runner.traces.after = 1  # in the warm-up, not in what is measured
        return engine

    def decoding(self) -> dict[str, float]:
        """tok/s of every kind of batch."""
        found = {
            kind: decode_speed(self.engine, self.adapters.tasks(kind, ROWS), self.ids, self.args.steps, self.clock)
            for kind in KINDS
        }
        found["one"] = decode_speed(self.engine, [None], self.ids, self.args.steps, self.clock)
        return found | self._more_decoding(self.wide) if self.wide else found

    def _more_decoding(self, wide: Engine) -> dict[str, float]:
        """What takes longer than the quick mode has."""
        plain, steps = self.adapters.tasks("plain", ROWS), self.args.steps
        return {
            "sampled": decode_speed(self.engine, plain, self.ids, steps, self.clock, TEMPERATURE),
            **{
                f"{kind}_32": decode_speed(wide, self.adapters.tasks(kind, 32), self.ids, steps, self.clock)
                for kind in KINDS[:2]
            },
        }

    def rivals(self, repetition: int) -> dict[str, float]:
        """tok/s of transformers, PEFT and llama.cpp, and seconds of serving 16 LoRA tasks."""
        ids, steps, clock = self.ids, self.args.steps, self.clock
        names = [f"lora{row % N_LORA}" for row in range(ROWS)]
        return {
            "generate": generate_speed(self.untouched, ids, ROWS, steps, clock),
            "peft_mixed": generate_speed(self.peft, ids, ROWS, max(steps // 2, 2), clock, adapters=names),
            "sequential_s": sequential_seconds(self.peft, ids, ROWS, SERVED, clock, [repetition % ROWS]),
            "batch_s": serve_seconds(self.engine, self.adapters.tasks("lora16", ROWS), ids, SERVED, clock),
            **({"continuous": continuous_speed(self.untouched, ids, ROWS, steps)} if self.args.clock == "wall" else {}),
            **(self.llamacpp.speeds(len(ids), steps, (1, ROWS)) if self.llamacpp else {}),
        }

    def run(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for repetition in range(self.args.repetitions + 1):
            one = self.decoding() | (self.rivals(repetition) if repetition else {})
            shown = {name: round(value, 2) for name, value in one.items()}
            print(f"run {repetition}" if repetition else "warm-up", shown, f"load {os.getloadavg()[0]:.1f}", flush=True)
            for name, value in one.items() if repetition else ():
                found.setdefault(name, []).append(value)
        return found

    def first_tokens(self) -> dict[str, float]:
        pairs = cached_first_tokens(self.engine, self.vocabulary, self.args.repetitions, self.clock)
        found = {"ttft_cached_ratio": statistics.median(kept / new for kept, new in pairs)}
        prompts = {"many_tasks_p95_ratio": 200} | ({} if self.args.quick else {"many_tasks_short_p95_ratio": 40})
        for name, n_prompt in prompts.items():
            touched, hot = many_first_tokens(
                self.engine, self.soft, self.vocabulary, self.args.touched, n_prompt, self.clock
            )
            found[name] = p95(touched) / p95(hot)
            found[name.replace("p95", "median")] = statistics.median(touched) / statistics.median(hot)
        return found


def ratios(found: Mapping[str, list[float]]) -> dict[str, float]:
    def ratio(top: str, bottom: str) -> float:
        return statistics.median(a / b for a, b in zip(found[top], found[bottom], strict=True))

    figures = {
        "mixed_prefix_ratio": ratio("mixed_prefix", "plain"), "lora16_ratio": ratio("lora16", "plain"),
        "mixed_all_ratio": ratio("mixed_all", "plain"),
        "vs_peft_mixed": ratio("lora16", "peft_mixed"), "vs_sequential": ratio("sequential_s", "batch_s"),
        "vs_generate": ratio("plain", "generate"),
    }  # fmt: skip
    if "continuous" in found:
        figures["vs_continuous"] = ratio("plain", "continuous")
    if "plain_32" in found:
        figures["mixed_prefix_ratio_32"] = ratio("mixed_prefix_32", "plain_32")
        figures["sampled_ratio"] = ratio("sampled", "plain")
    for name, (ours, theirs) in engine_llamacpp.FIGURES.items():
        if theirs in found:
            figures[name] = ratio(ours, theirs)
    return figures


def machine(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "threads": args.threads, "load": os.getloadavg(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform(),
                    "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else ""},
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "transformers": transformers.__version__, "peft": peft.__version__},
    }  # fmt: skip


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("var/models/smollm2-135m-instruct"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--llamacpp", type=Path, default=Path("var/bench/llamacpp"), help="made by bench-llamacpp")
    parser.add_argument("--device", help="the roofline of a Llama shape with random weights, on cuda or cpu")
    parser.add_argument("--shape", choices=tuple(engine_roofline.SHAPES), default="8b")
    parser.add_argument(
        "--quick", action="store_true", help="about 3 minutes: 6 steps, 16 rows only, 24 of 1,000 soft prompts"
    )
    args = parser.parse_args()
    args.repetitions = 5
    args.steps, args.registered, args.touched = (6, 1000, 24) if args.quick else (24, 10_000, 1000)
    return args


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    if args.device:
        print(json.dumps(engine_roofline.measure(args.shape, args.device, 20) | machine(args)))
        return
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(args, Path(name), clock)
        found = bench.run()
        measured = ratios(found) | bench.first_tokens()
    absent = dict.fromkeys(engine_llamacpp.FIGURES, engine_llamacpp.ABSENT)
    figures: dict[str, Any] = absent | {name: round(value, 3) for name, value in measured.items()}
    limit = limits(bench.engine, ROWS, len(bench.ids) + args.steps // 2)
    print(f"\n{table(figures, limit)}\n")
    speeds = {name: round(statistics.median(values), 1) for name, values in found.items()}
    print(json.dumps({
        **figures, "limits": {name: [round(v, 3) for v in values] for name, values in limit.items()},
        "tokens_per_s": {name: speed for name, speed in speeds.items() if not name.endswith("_s")},
        "packed": bool(bench.engine.runner.packs and bench.engine.runner.packs.n_bytes),
        "llamacpp": engine_llamacpp.VERSION if bench.llamacpp else engine_llamacpp.ABSENT,
        "base": bench.backbone.name, "prompt_tokens": len(bench.ids), "rows": ROWS, "steps": args.steps,
        "served_tokens": SERVED,
        "repetitions": args.repetitions, "registered": args.registered, "touched": args.touched, "clock": args.clock,
        **machine(args),
        "seconds": round(time.perf_counter() - started),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
