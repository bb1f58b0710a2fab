"""How fast the engine decodes a batch of many tasks, against plain rows and against transformers' generate.

    python bench/engine.py [--model var/models/smollm2-135m-instruct] [--rows 16] [--quick] [--clock cpu]

Per repetition each kind of batch is decoded once, in turn, so that a noisy machine disturbs all alike; figures are
medians. Adapters are random ones saved by plain peft: their values do not matter for speed. Decoding alone is timed:
the prompts are read before. Ends in one JSON line. The limit printed beside each ratio is what bytes and operations
alone allow, if everything took time only through its weights, keys and values, or its multiplications. On a machine
that others use, `--clock cpu --threads 1` counts this process' processor seconds: ratios stay meaningful.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the project's folder instead of bench/, whose files are called like libraries
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
import transformers

from ml.artifact import artifact_id
from ml.backbone import Backbone, load_backbone
from ml.data.chat import prompt_ids
from ml.engine.cache import heads_of
from ml.engine.engine import Engine
from ml.engine.types import Request, Sampling
from ml.files import stamp, write_json

QUESTION = [{"role": "user", "content": "My lights went out. What should I do?"}]
KINDS = ("plain", "mixed_prefix", "lora16", "mixed_all")
PREFIX_TOKENS = (4, 8, 12, 16, 20)
N_ADAPTERS = 16


def save(folder: Path, name: str, backbone: Backbone, config: Any) -> str:
    """A random adapter as an artifact; the model is left as it was."""
    model = peft.get_peft_model(backbone.model, config)
    stage = folder / name
    model.save_pretrained(stage)
    is_lora = config.peft_type == peft.PeftType.LORA
    if is_lora:
        model.unload()
    manifest = {
        "schema": 1, "method": "lora" if is_lora else "prompt_tuning",
        "form": "lora_delta" if is_lora else "prefix_kv",
        "base": {"name": backbone.name, "fingerprint": backbone.fingerprint},
        "dataset": {"name": "none", "sha256": ""}, "spec": {}, "seed": 0, "versions": {}, "metrics": {},
        "files": stamp(stage),
    }  # fmt: skip
    write_json(stage / "manifest.json", manifest)
    sha = artifact_id(stage)
    stage.rename(folder / sha)
    return sha


def make_adapters(folder: Path, backbone: Backbone) -> tuple[list[str], list[str]]:
    """(prefixes of several kinds and lengths, LoRAs of rank 8 on every linear layer)"""
    prefixes = []
    for n in PREFIX_TOKENS:
        prefixes.append(save(folder, f"prompt{n}", backbone,
                             peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=n)))  # fmt: skip
        prefixes.append(save(folder, f"prefix{n}", backbone,
                             peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=n)))  # fmt: skip
    loras = []
    for n in range(N_ADAPTERS):
        config = peft.LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear", init_lora_weights=False)
        torch.manual_seed(n)
        loras.append(save(folder, f"lora{n}", backbone, config))
    backbone.model.requires_grad_(False)
    return prefixes, loras


def tasks_of(kind: str, n_rows: int, prefixes: list[str], loras: list[str]) -> list[str | None]:
    choices: dict[str, list[str | None]] = {
        "plain": [None],
        "mixed_prefix": [None, *prefixes],
        "lora16": list(loras),
        "mixed_all": [None, prefixes[-2], loras[0], prefixes[-1], loras[1], prefixes[3], loras[2], loras[3]],
    }
    return [choices[kind][i % len(choices[kind])] for i in range(n_rows)]


Clock = Callable[[], float]


def decode_speed(engine: Engine, tasks: list[str | None], ids: list[int], steps: int, clock: Clock) -> float:
    """tok/s of `steps` steps in which every row decodes."""
    for n, task in enumerate(tasks):
        sampling = Sampling(max_tokens=steps + 40, seed=n)
        engine.submit(Request(id=f"{n}", team_id=1, prompt_ids=tuple(ids), artifact=task, sampling=sampling))
    while engine.scheduler.table.n_decoding < len(tasks):
        engine.step()
        engine.wait(0.05)
    engine.step()
    started = clock()
    for _ in range(steps):
        engine.step()
    seconds = clock() - started
    assert engine.scheduler.table.n_decoding == len(tasks), "a row ended during the measurement"
    for n in range(len(tasks)):
        engine.cancel(str(n))
    engine.step()
    return len(tasks) * steps / seconds


@torch.inference_mode()
def generate_speed(model: Any, ids: list[int], n_rows: int, steps: int, clock: Clock) -> float:
    """tok/s of transformers' generate for the same batch; reading the prompt is measured apart and taken off."""
    batch = torch.tensor([ids] * n_rows)
    mask = torch.ones_like(batch)

    def seconds(n: int) -> float:
        started = clock()
        model.generate(batch, attention_mask=mask, max_new_tokens=n, min_new_tokens=n, do_sample=False)
        return clock() - started

    return n_rows * steps / (seconds(steps + 1) - seconds(1))


def limits(backbone: Backbone, n_rows: int, position: int) -> dict[str, float]:
    """Plain step ÷ mixed step, by bytes and by operations, at the same text length."""
    config = backbone.model.config
    n_layers, n_heads, width = heads_of(config)
    n_weights = sum(p.numel() for p in backbone.model.parameters())
    per_token = 2 * n_layers * n_heads * width
    linears = [m for n, m in backbone.model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n]
    lora = 8 * sum(m.in_features + m.out_features for m in linears)
    prefix = statistics.mean(PREFIX_TOKENS)
    plain_bytes = n_weights + n_rows * position * per_token
    attention = 4 * config.num_attention_heads * width * n_layers
    plain_operations = n_rows * (2 * n_weights + position * attention)
    return {
        "mixed_prefix_bytes": plain_bytes / (plain_bytes + n_rows * prefix * per_token),
        "mixed_prefix_operations": plain_operations / (plain_operations + n_rows * prefix * attention),
        "lora16_bytes": plain_bytes / (plain_bytes + n_rows * lora),
        "lora16_operations": plain_operations / (plain_operations + n_rows * 2 * lora),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("var/models/smollm2-135m-instruct"))
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--quick", action="store_true", help="a look: 8 steps, 3 repetitions")
    args = parser.parse_args()
    steps, repetitions = (8, 3) if args.quick else (args.steps, args.repetitions)
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    backbone = load_backbone(args.model)
    untouched = load_backbone(args.model).model
    ids = prompt_ids(backbone.tokenizer, QUESTION)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prefixes, loras = make_adapters(folder, backbone)
        engine = Engine(backbone, artifact_folder=lambda sha: folder / sha, n_slots=args.rows, length=512)
        engine.stop_ids.clear()
        speeds: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "generate")}
        for repetition in range(repetitions + 1):
            found = {
                kind: decode_speed(engine, tasks_of(kind, args.rows, prefixes, loras), ids, steps, clock)
                for kind in KINDS
            }
            found["generate"] = generate_speed(untouched, ids, args.rows, steps, clock)
            shown = {kind: round(speed, 1) for kind, speed in found.items()}
            name = f"run {repetition}" if repetition else "warm-up"
            print(name, shown, f"load {os.getloadavg()[0]:.1f}", flush=True)
            if repetition:
                for kind, speed in found.items():
                    speeds[kind].append(speed)
    report(args, backbone, ids, steps, speeds)


def report(args: Any, backbone: Backbone, ids: list[int], steps: int, speeds: dict[str, list[float]]) -> None:
    median = {kind: statistics.median(values) for kind, values in speeds.items()}

    def ratio(kind: str, to: str = "plain") -> float:
        """Median of the ratios within each repetition: neighbours in time share their noise."""
        return round(statistics.median(a / b for a, b in zip(speeds[kind], speeds[to], strict=True)), 3)

    limit = {name: round(value, 3) for name, value in limits(backbone, args.rows, len(ids) + steps // 2).items()}
    print(f"\n{'batch':14} {'tok/s':>8} {'/ plain':>8}   limit by bytes, by operations")
    for kind in (*KINDS, "generate"):
        shown = [str(limit[f"{kind}_{by}"]) for by in ("bytes", "operations") if f"{kind}_{by}" in limit]
        print(f"{kind:14} {median[kind]:8.1f} {ratio(kind):8.3f}   {', '.join(shown)}")
    figures = {
        "mixed_prefix_ratio": ratio("mixed_prefix"), "lora16_ratio": ratio("lora16"),
        "mixed_all_ratio": ratio("mixed_all"), "vs_generate": ratio("plain", "generate"),
        "tokens_per_s": {kind: round(value, 1) for kind, value in median.items()}, "limits": limit,
        "rows": args.rows, "steps": steps, "repetitions": len(speeds["plain"]), "prompt_tokens": len(ids),
        "base": backbone.name, "dtype": str(backbone.model.dtype), "threads": args.threads, "clock": args.clock,
        "load": os.getloadavg(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "transformers": transformers.__version__, "peft": peft.__version__},
    }  # fmt: skip
    print(json.dumps(figures))


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
