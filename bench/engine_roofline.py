"""How near the engine comes to the memory's speed: `bench/engine.py --device cuda`. Llama shapes, random numbers.

A decode step must read every weight and every row's keys and values once; their bytes over the step's time, divided by
what a copy moves in the same time on the same device, is the roofline share. The step is the runner's forward, of fixed
shape (on a GPU a replayed graph), and the choice of tokens, without the scheduler. `--device cpu --shape tiny` runs the
same code anywhere.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from bench.engine_batches import N_LORA, RANK
from ml.backbone import Backbone
from ml.engine.cache import heads_of
from ml.engine.lora import Delta
from ml.engine.runner import Runner
from ml.engine.sampler import likeliest

SHAPES = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256},
    "tiny": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 1024},
}  # fmt: skip
BATCHES = (1, 2, 4, 8, 16, 32, 64)
POSITION, LENGTH = 512, 640
SHARE_GOAL, LORA_GOAL = 0.70, 0.93


def random_backbone(shape: str, device: str) -> Backbone:
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=4096)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)
    return Backbone(model=model, tokenizer=None, fingerprint="", family="decoder", name=shape, folder=Path())


def _timed(device: str, function: Any, n: int) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(n + 2):
        started = time.perf_counter()
        function()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def copy_bandwidth(device: str) -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.ones((1 << 30) if device.startswith("cuda") else (1 << 27), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _timed(device, lambda: target.copy_(source), 10)


def step_bytes(model: Any, n_rows: int, position: int) -> int:
    """Weights but the input embeddings, of which a row reads one vector, and keys and values."""
    n_layers, n_heads, width = heads_of(model.config)
    head = model.get_output_embeddings().weight
    weights = [p for p in model.parameters() if p is not model.get_input_embeddings().weight or p is head]
    kept = 2 * n_layers * n_heads * width * position * n_rows * model.dtype.itemsize
    return sum(p.nbytes for p in weights) + kept


def random_deltas(model: Any) -> dict[str, Delta]:
    like = next(model.parameters())
    head = model.get_output_embeddings()
    return {
        name: Delta(like.new_empty(RANK, m.in_features).normal_(), like.new_empty(RANK, m.out_features).normal_())
        for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head
    }  # fmt: skip


class Measured:
    """One model of a shape, and what its steps take."""

    def __init__(self, shape: str, device: str, n_timed: int) -> None:
        self.device, self.n_timed = device, n_timed
        self.backbone = random_backbone(shape, device)
        self.bandwidth = copy_bandwidth(device)
        self.runner = Runner(self.backbone, n_slots=max(BATCHES), length=LENGTH, is_fixed=True)

    def _step(self, n_rows: int) -> None:
        logits = self.runner.forward(0, [[5]] * n_rows, [POSITION] * n_rows).logits
        if logits is not None:
            likeliest(logits)[1].tolist()

    def seconds(self, n_rows: int) -> float:
        return _timed(self.device, lambda: self._step(n_rows), self.n_timed)

    def shares(self) -> dict[int, dict[str, float]]:
        found = {}
        for n_rows in BATCHES:
            seconds, read = self.seconds(n_rows), step_bytes(self.backbone.model, n_rows, POSITION)
            share = read / seconds / self.bandwidth
            found[n_rows] = {"ms": round(1000 * seconds, 3), "gb": round(read / 1e9, 3), "share": round(share, 3)}
            best = 1000 * read / self.bandwidth
            print(f"{n_rows:4} rows {read / 1e9:8.2f} GB a step {1000 * seconds:9.2f} ms, at best {best:8.2f}   "
                  f"share {share:6.3f} (goal {SHARE_GOAL:.2f})", flush=True)  # fmt: skip
        return found

    def lora16(self) -> dict[str, float]:
        """16 rows with 16 LoRAs over 16 plain ones, and what their bytes allow."""
        plain = self.seconds(N_LORA)
        read = step_bytes(self.backbone.model, N_LORA, POSITION)
        for slot in range(N_LORA):
            deltas = random_deltas(self.backbone.model)
            self.runner.sites.set(slot, deltas)
        extra = N_LORA * sum(delta.a.nbytes + delta.b.nbytes for delta in deltas.values())
        ratio, limit = plain / self.seconds(N_LORA), read / (read + extra)
        print(f"{N_LORA} LoRA / plain {ratio:.3f} (goal {LORA_GOAL:.2f}; their bytes allow {limit:.3f})", flush=True)
        return {"lora16_ratio": round(ratio, 3), "lora16_limit": round(limit, 3)}


@torch.inference_mode()
def measure(shape: str, device: str, n_timed: int) -> dict[str, Any]:
    """Per batch: ms and GB a step and the roofline share; 16 different LoRAs over none."""
    measured = Measured(shape, device, n_timed)
    runner = measured.runner
    print(f"{shape} in {str(runner.cache.dtype).removeprefix('torch.')} on {device}, attention by {runner.reads_by}; a "
          f"copy moves {measured.bandwidth / 1e9:.1f} GB/s", flush=True)  # fmt: skip
    steps = measured.shares()
    return {
        "shape": shape, "device": device, "attention": runner.reads_by, "position": POSITION,
        "copy_gb_per_s": round(measured.bandwidth / 1e9, 1), "steps": steps,
        "roofline_share": min(step["share"] for step in steps.values()), "roofline_goal": SHARE_GOAL,
        **measured.lora16(), "lora16_goal": LORA_GOAL, "graphs": runner.n_graphs,
    }  # fmt: skip
