"""The figures of `bench/engine.py`: their goals (ENGINE.md) and what the machine could do at best.

A limit is what bytes and multiplications allow if everything took time only through them: by bytes, each byte of
weights, keys, values and adapters is read once a step at the same speed; by operations, each multiplication takes the
same time. A step that waits for memory is bound by the former, one that computes by the latter.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import torch

from bench.engine_batches import PREFIX_TOKENS, RANK, SOFT_TOKENS
from ml.engine.cache import heads_of
from ml.engine.engine import Engine

GOALS = {
    "mixed_prefix_ratio": (0.98, "tok/s, mixed prefix tasks p ≤ 20 / plain rows"),
    "mixed_prefix_ratio_32": (0.98, "the same at 32 rows"),
    "lora16_ratio": (0.92, "tok/s, 16 distinct LoRA r=8 all-linear / plain"),
    "mixed_all_ratio": (0.92, "tok/s, everything mixed / plain"),
    "sampled_ratio": (None, "tok/s, plain rows at a temperature / greedy ones"),
    "vs_peft_mixed": (3.0, "16 LoRA rows / PEFT's mixed LoRA batch"),
    "vs_sequential": (5.0, "16 LoRA tasks in a batch / one after another with set_adapter and generate"),
    "vs_generate": (1.3, "plain decode / model.generate"),
    "vs_continuous": (1.3, "plain decode / transformers' continuous batching"),
    "ttft_cached_ratio": (0.15, "first token, 500-token few-shot prefix kept / new"),
    "many_tasks_p95_ratio": (1.2, "p95 first token of soft prompts touched at random / the hot one, 200-token prompts"),
    "many_tasks_short_p95_ratio": (None, "the same, 40-token prompts"),
    "vs_llamacpp_1": (0.6, "tok/s at 1 row / llama.cpp, same threads"),
    "vs_llamacpp_16": (1.5, "tok/s at 16 rows / llama.cpp's batches, same threads"),
}
SMALLER_IS_BETTER = ("ttft_cached_ratio", "many_tasks_p95_ratio", "many_tasks_short_p95_ratio")


def weight_bytes(engine: Engine) -> float:
    """Read by a step: packed ones in half, the input embeddings only where they are the output layer's as well."""
    model, packs = engine.backbone.model, engine.runner.packs
    packed = {id(model.get_submodule(name).weight) for name in packs.by_name} if packs else set()
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    read = [p for p in model.parameters() if p is not embeddings or p is head]
    return sum(p.nbytes / (2 if id(p) in packed else 1) for p in read)


def limits(engine: Engine, n_rows: int, position: int) -> dict[str, tuple[float, float]]:
    """By figure: what bytes and what operations allow, at the same text length."""
    model = engine.backbone.model
    n_layers, n_heads, width = heads_of(model.config)
    n_weights = sum(p.numel() for p in model.parameters())
    size = model.dtype.itemsize
    column = 2 * n_layers * n_heads * width * size
    head = model.get_output_embeddings()
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    lora = RANK * sum(m.in_features + m.out_features for m in linears)
    prefix = statistics.mean(PREFIX_TOKENS) * 10 / 11  # one task in eleven has none
    read = weight_bytes(engine)
    plain_bytes = read + n_rows * position * column
    attention = 4 * model.config.num_attention_heads * width * n_layers
    plain_work = n_rows * (2 * n_weights + position * attention)

    def over(extra_bytes: float, extra_work: float) -> tuple[float, float]:
        return plain_bytes / (plain_bytes + extra_bytes), plain_work / (plain_work + extra_work)

    # Half of the rows have one of four LoRAs; of eight rows three have a prefix, 20, 20 and 8 tokens long.
    mixed = over(4 * lora * size + n_rows * 6 * column, n_rows * (lora + 6 * attention))
    alone = 4 * n_weights + position * column + lora * size
    return {
        "mixed_prefix_ratio": over(n_rows * prefix * column, n_rows * prefix * attention),
        "lora16_ratio": over(n_rows * lora * size, n_rows * 2 * lora),
        "mixed_all_ratio": mixed,
        "vs_sequential": (n_rows * alone / (plain_bytes + n_rows * lora * size), 1.0),
        "ttft_cached_ratio": (0.0, 32 / 532),
        "many_tasks_p95_ratio": (1.0, (200 + SOFT_TOKENS) / 200),
        "many_tasks_short_p95_ratio": (1.0, (40 + SOFT_TOKENS) / 40),
    }


def table(figures: Mapping[str, Any], limit: Mapping[str, tuple[float, float]]) -> str:
    lines = [f"{'figure':28}{'measured':>9}  {'goal':>7}  {'limit by bytes, operations':27}"]
    for name, (goal, about) in GOALS.items():
        if name not in figures:
            continue
        value, sign = figures[name], "≤" if name in SMALLER_IS_BETTER else "≥"
        shown = f"{value:9.3f}" if isinstance(value, float) else f"{value:>9}"
        wanted = f"{sign} {goal:.2f}" if goal is not None else "–"
        bound = "{:.3f}, {:.3f}".format(*limit[name]) if name in limit else "–"
        lines.append(f"{name:28}{shown}  {wanted:>7}  {bound:27} {about}")
    return "\n".join(lines)
