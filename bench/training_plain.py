"""The yardstick of `bench/training.py`: LoRA with transformers' Trainer, as its documentation shows it.

Same rows in the same order, same adapter, optimizer, schedule and clipping as the spec says. Rows are padded on the
right to the longest of the batch; the prompt's tokens have the label -100.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch.utils.data import Sampler, SequentialSampler
from transformers import AutoModelForCausalLM, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ml.data.chat import Example
from ml.data.rows import batch_rows
from ml.specs import TrainSpec


class _InOrder(Trainer):
    """The rows as they come: they are in the order that the spec's seed gives."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)


class _Times(TrainerCallback):
    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.at = clock, [clock()]

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.at.append(self.clock())


def _padded(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    width = max(len(row["input_ids"]) for row in rows)

    def stack(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([row[name] + [fill] * (width - len(row[name])) for row in rows])

    return {"input_ids": stack("input_ids", 0), "labels": stack("labels", -100),
            "attention_mask": stack("attention_mask", 0)}  # fmt: skip


def in_order(spec: TrainSpec, examples: Sequence[Example]) -> list[dict[str, list[int]]]:
    """Rows as our loop visits them."""
    lengths = [example.n_tokens for example in examples] if spec.group_by_length else None
    rows = [row for step in range(spec.steps)
            for row in batch_rows(spec.seed, step, spec.batch_size, len(examples), lengths)]  # fmt: skip
    return [
        {"input_ids": examples[row].ids, "attention_mask": [1] * len(examples[row].ids),
         "labels": [-100] * examples[row].n_prompt + examples[row].ids[examples[row].n_prompt :]}
        for row in rows
    ]  # fmt: skip


def plain_steps(
    spec: TrainSpec, examples: Sequence[Example], model_folder: Path, config: Any, workdir: Path,
    clock: Callable[[], float],
) -> list[float]:  # fmt: skip
    """Seconds of each of `spec.steps` optimizer steps by transformers' Trainer. `config`: the LoRA to train."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32), config)
    times = _Times(clock)
    arguments = TrainingArguments(
        output_dir=str(workdir),
        per_device_train_batch_size=spec.micro_batch_size,
        gradient_accumulation_steps=spec.batch_size // spec.micro_batch_size,
        max_steps=spec.steps,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.schedule,
        warmup_steps=round(spec.warmup_ratio * spec.steps),
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        seed=spec.seed,
        optim="adamw_torch",
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        remove_unused_columns=False,
    )
    trainer = _InOrder(
        model=model, args=arguments, train_dataset=in_order(spec, examples), data_collator=_padded, callbacks=[times]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [after - before for before, after in pairwise(times.at)]
