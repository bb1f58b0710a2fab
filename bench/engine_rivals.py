"""What `bench/engine.py` compares the engine with: transformers' generate and its continuous batching, PEFT's mixed
batches and PEFT with one task after another. All on the same machine, model, prompts and numbers of tokens.

Decoding alone is compared: what the first token takes is measured apart and taken off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from bench.engine_batches import N_LORA, Clock


@torch.inference_mode()
def generate_speed(
    model: Any, ids: Sequence[int], n_rows: int, steps: int, clock: Clock, adapters: Sequence[str] = ()
) -> float:
    """tok/s of `generate`; with `adapters`, each row has its own in PEFT's mixed batch (`adapter_names`)."""
    batch = torch.tensor([list(ids)] * n_rows, device=model.device)
    settings: dict[str, Any] = {"attention_mask": torch.ones_like(batch), "do_sample": False}
    if adapters:
        settings["adapter_names"] = list(adapters)

    def seconds(n: int) -> float:
        started = clock()
        model.generate(input_ids=batch, max_new_tokens=n, min_new_tokens=n, **settings)
        return clock() - started

    return n_rows * steps / (seconds(steps + 1) - seconds(1))


def continuous_speed(model: Any, ids: Sequence[int], n_rows: int, steps: int, clock: Clock) -> float:
    """tok/s of transformers' continuous batching with room for all rows at once."""
    blocks = ContinuousBatchingConfig(num_blocks=2 * n_rows, max_batch_tokens=n_rows * len(ids))

    def seconds(n: int) -> float:
        settings = GenerationConfig(max_new_tokens=n, do_sample=False, eos_token_id=-1)
        started = clock()
        found = model.generate_batch(
            [list(ids)] * n_rows, generation_config=settings, continuous_batching_config=blocks, warmup=False
        )
        if [len(one.generated_tokens) for one in found.values()] != [n] * n_rows:
            raise SystemExit("transformers' continuous batching did not write every token")
        return clock() - started

    return n_rows * steps / (seconds(steps + 1) - seconds(1))


@torch.inference_mode()
def sequential_seconds(
    model: Any, ids: Sequence[int], n_rows: int, n: int, clock: Clock, sampled: Sequence[int]
) -> float:
    """Seconds for one task after another, each by `set_adapter` and `generate`: as `sampled` rows took, for all."""
    batch = torch.tensor([list(ids)], device=model.device)
    started = clock()
    for row in sampled:
        model.set_adapter(f"lora{row % N_LORA}")
        model.generate(
            input_ids=batch, attention_mask=torch.ones_like(batch), max_new_tokens=n, min_new_tokens=n, do_sample=False
        )
    return (clock() - started) * n_rows / len(sampled)
