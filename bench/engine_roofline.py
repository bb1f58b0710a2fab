"""How near the engine comes to the memory's speed: `bench/engine.py --device cuda`. Llama shapes, random numbers.

A decode step must read every weight and every row's keys and values once; their bytes over the step's time, divided by
what a copy moves in the same time on the same device, is the roofline share. The step is the runner's forward and the
choice of tokens, without the scheduler. `--device cpu --shape tiny` runs the same code anywhere.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from bench.engine_batches import RANK
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


def _random_backbone(shape: str, device: str) -> Backbone:
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


def _random_deltas(model: Any) -> dict[str, Delta]:
    like = next(model.parameters())
    head = model.get_output_embeddings()
    return {
        name: Delta(like.new_empty(RANK, m.in_features).normal_(), like.new_empty(RANK, m.out_features).normal_())
        for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head
    }  # fmt: skip


@torch.inference_mode()
def measure(shape: str, device: str, n_timed: int) -> dict[str, Any]:
    """Per batch: ms a step, roofline share, and 16 different LoRAs over none."""
    backbone, bandwidth = _random_backbone(shape, device), copy_bandwidth(device)
    runner = Runner(backbone, n_slots=max(BATCHES), length=LENGTH)
    found: dict[str, Any] = {"shape": shape, "copy_gb_per_s": round(bandwidth / 1e9, 1), "roofline_share": {},
                             "step_ms": {}}  # fmt: skip

    def step(n_rows: int) -> None:
        logits = runner.forward(0, [[5]] * n_rows, [POSITION] * n_rows).logits
        if logits is not None:
            likeliest(logits)[1].tolist()

    for n_rows in BATCHES:
        seconds = _timed(device, lambda n_rows=n_rows: step(n_rows), n_timed)
        share = step_bytes(backbone.model, n_rows, POSITION) / seconds / bandwidth
        found["step_ms"][n_rows], found["roofline_share"][n_rows] = round(1000 * seconds, 2), round(share, 3)
        print(f"{n_rows:3} rows {1000 * seconds:9.2f} ms a step   {share:6.3f} of the roofline (goal 0.70)", flush=True)
    plain = _timed(device, lambda: step(16), n_timed)
    for slot in range(16):
        runner.sites.set(slot, _random_deltas(backbone.model))
    found["lora16_ratio"] = round(plain / _timed(device, lambda: step(16), n_timed), 3)
    print(f"16 LoRA / plain {found['lora16_ratio']:.3f} (goal 0.93)")
    return found
