"""What `bench/engine.py` compares the engine with: transformers' generate and its continuous batching, PEFT's mixed
batches and PEFT with one task after another. All on the same machine, model, prompts and numbers of tokens.

Decoding alone is compared, from the first token of all rows on; tasks one after another are measured whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, StoppingCriteriaList

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
    times: list[float] = []

    def stamp(ids: torch.Tensor, _: Any) -> torch.Tensor:
        times.append(clock())
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    model.generate(
        input_ids=batch, max_new_tokens=steps + 1, min_new_tokens=steps + 1,
        stopping_criteria=StoppingCriteriaList([stamp]), **settings,
    )  # fmt: skip
    return n_rows * steps / (times[-1] - times[0])


def continuous_speed(model: Any, ids: Sequence[int], n_rows: int, steps: int) -> float:
    """tok/s of transformers' continuous batching with room for all rows at once, by its own times of day."""
    found = model.generate_batch(
        [list(ids)] * n_rows, warmup=False, record_timestamps=True,
        generation_config=GenerationConfig(max_new_tokens=steps + 1, do_sample=False, eos_token_id=-1),
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=2 * n_rows, max_batch_tokens=n_rows * len(ids)),
    )  # fmt: skip
    times = [one.timestamps for one in found.values()]
    if [len(row) for row in times] != [steps + 1] * n_rows:
        raise SystemExit("transformers' continuous batching did not write every token")
    return n_rows * steps / (max(row[-1] for row in times) - max(row[0] for row in times))


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
