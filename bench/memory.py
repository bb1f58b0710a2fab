"""How near the memory plan is to what a run takes: predicted ÷ measured peak, for every technique.

    python bench/memory.py [--shapes llama,bert,t5] [--quick]        on the CPU
    python bench/memory.py --gpu [--shapes 8b,65b]                    where there is one

On the CPU a small random model of each shape is trained by the trainer itself, evaluations included, while every tensor
storage that torch makes is counted (ml/plan/live.py): measured is the highest sum of all that are alive, base weights
included; what kernels take within one operation and the interpreter itself are in neither figure. All rows are about as
long as the longest. On a GPU measured is torch.cuda.max_memory_allocated of two steps on Llama shapes with random
weights, quantized layer by layer for QLoRA, and tokens a second of the steps after them. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: the project's folder instead of bench/, whose files are called like libraries
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

from bench.memory_gpu import measure_gpu
from ml.cli_train import load_backbone_for, prepare
from ml.data.rows import Dataset, read_dataset
from ml.plan import figures, plan
from ml.plan.live import LiveBytes, storage_bytes
from ml.specs import METHODS, train_spec
from tests.ml.conftest import save_dataset
from tests.ml.tiny import SHAPES, save_tiny

SIZES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 6},
    "gpt2": {"n_embd": 128, "n_layer": 6},
    "bert": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 6},
    "t5": {"d_model": 128, "d_ff": 256, "num_layers": 6, "num_decoder_layers": 6},
    "bart": {"d_model": 128, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "encoder_layers": 6, "decoder_layers": 6},
}
WORDS = ["sky", "sea", "grass", "red", "what", "colour", "is", "the", "tree", "in", "Seattle"]
LABELS = ["blue", "green", "red"]
LIMITS = (0.9, 1.1)


def make_dataset(folder: Path, task: str) -> Dataset:
    """80 rows of about 60 words, whose lengths differ by a word, so that batches are padded."""
    rows = []
    for number in range(80):
        first = chr(ord("a") + number % 26)  # rows differ at once, and are equally long in tokens
        text = " ".join([first, *(WORDS[k % len(WORDS)] for k in range(60 - number % 2))])
        answer = LABELS[number % 3] if task == "classification" else "A red tree, then the sea."
        rows.append({"row": number + 1, "messages": [{"role": "user", "content": text}], "completion": answer})
    splits = {"train": rows[:40], "validation": rows[40:60], "test": rows[60:]}
    target = folder / (("a" if task == "classification" else "b") * 64)
    save_dataset(target, splits, task=task, labels=LABELS if task == "classification" else None)
    return read_dataset(target)


def scales_of(tensor: Any) -> list[Any]:
    """The scales of a 4-bit weight, which hang on it beside its own storage."""
    state = getattr(tensor, "quant_state", None)
    if state is None:
        return []
    nested = [state.state2.absmax, state.state2.code, state.offset] if state.nested else []
    return [state.absmax, state.code, *nested]


def measure(shape: str, method: str, folder: Path, steps: int) -> dict[str, Any]:
    """One run of `method` on the random model of `shape`: predicted and measured peak in bytes."""
    task = "classification" if SHAPES[shape] == "encoder" or METHODS[method].storage == "head" else "generation"
    data = make_dataset(folder, task)
    if not (folder / shape).exists():
        save_tiny(folder / shape, shape, **SIZES[shape])
    spec = train_spec({
        "method": method, "base": shape, "dataset": "d", "dataset_sha256": data.sha256, "max_length": 256,
        "steps": steps, "batch_size": 8, "micro_batch_size": 8, "eval_rows": 16, "eval_every": steps,
        "checkpoint_every": 1000,
    })  # fmt: skip
    backbone = load_backbone_for(spec, folder / shape, data, device="cpu")
    with tempfile.TemporaryDirectory(dir=folder) as work:
        trainer = prepare(spec, backbone, data, Path(work), lambda *_, **__: None)
        modules = (backbone.model, trainer.model)
        own = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        known = [*own, *(scale for tensor in own for scale in scales_of(tensor))]
        tracker = LiveBytes(known, start=storage_bytes(known))
        with tracker:
            trainer.run()
    tokens = trainer.objective.label_lengths() if data.labels else ()
    needed = plan(
        spec, backbone.model.config, family=backbone.family, labels=len(data.labels), label_tokens=tokens,
        **figures(trainer.items),
    )  # fmt: skip
    predicted = needed.total - needed.runtime
    return {"shape": shape, "method": method, "task": task, "predicted": predicted, "measured": tracker.peak,
            "ratio": round(predicted / tracker.peak, 3)}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="", help="of the CPU: llama,gpt2,bert,t5,bart; of the GPU: 8b,65b")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--quick", action="store_true", help="llama alone, three steps")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)
    start, methods = time.monotonic(), args.methods.split(",")
    if args.gpu:
        if not torch.cuda.is_available():
            print(json.dumps({"bench": "memory", "device": "cuda", "error": "there is no GPU here"}))
            return 0
        rows = measure_gpu((args.shapes or "8b,65b").split(","))
    else:
        rows = _on_cpu((args.shapes or ("llama" if args.quick else ",".join(SIZES))).split(","), methods, args.quick)
    ratios = [row["ratio"] for row in rows]
    print(json.dumps({
        "bench": "memory", "device": "cuda" if args.gpu else "cpu", "rows": rows, "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios), "is_within_limits": LIMITS[0] <= min(ratios) and max(ratios) <= LIMITS[1],
        "seconds": round(time.monotonic() - start), "machine": {"cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "transformers": transformers.__version__},
    }))  # fmt: skip
    return 0


def _on_cpu(shapes: list[str], methods: list[str], is_quick: bool) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for shape in shapes:
            for method in methods:
                if SHAPES[shape] in METHODS[method].families:
                    rows.append(measure(shape, method, Path(folder), 3 if is_quick else 6))
                    print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
