"""How long a study's techniques will take, before it starts: counted work divided by what this machine does a second.

Work is counted from the model's shapes and the rows' lengths: 2 operations a weight and token forward, as many back
through frozen layers, as many again for weights that are trained; what rows share is run once, as training and engine
do; what is computed once (features, activations below the trained layers) is counted once; a decode step also reads
every weight. The machine's speed is probed by a product of the model's own shapes and by a copy, in processor seconds
on a CPU, so that a busy machine looks as fast as it is when idle. Left out: attention over long contexts, optimizers,
loading, other work on the machine. `EFFICIENCY` is what the starter model reached of the probe (0.5 to 0.7); once a
study runs, its finished cells correct the rest (ml.study.budget).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from ml.data.chat import completion_ids
from ml.data.rows import Dataset, encode_rows
from ml.forward import n_common
from ml.plan.models import depths, model_on_meta
from ml.specs import METHODS
from ml.specs.study import TECHNIQUES, StudySpec
from ml.study.budget import Cost
from ml.study.cells import learns_from_rows
from ml.study.halving import n_kept, rungs

EFFICIENCY = 0.6
_SLOTS = 16
_STEPS_WRITTEN = 96
"""Tokens that a chain of thought is taken to have."""
_PROBE_S = 0.2
MOST_COUNTED = 200


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What is known of the data: tokens a row on average, and how many rows of each kind are used."""

    n_tokens: float
    """Prompt and answer."""
    n_shared: float = 0
    """Tokens that all prompts begin with."""
    n_targets: float
    """Of the answer."""
    label_tokens: float = 0
    """Of all labels together; 0: free answers."""
    n_train: int
    n_valid: int
    n_test: int


@dataclass(frozen=True, kw_only=True)
class Speed:
    flops: float
    """Operations a second that training and reading reach."""
    bandwidth: float
    """Bytes a second that can be read."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model's numbers that decide how much work a token is."""

    body: int
    """Weights that every token passes."""
    head: int
    """Of the output layer, which only kept positions pass."""
    n_layers: int
    width: int
    n_bytes: int


@lru_cache(maxsize=8)
def _shape(text: str, family: str, dtype: torch.dtype, holder: _Config) -> Shape:
    model = model_on_meta(holder.config, family=family, dtype=dtype, labels=None)
    embedding = model.get_input_embeddings().weight
    everything = sum(parameter.numel() for parameter in model.parameters())
    output = model.get_output_embeddings()
    head = output.weight.numel() if output is not None else 0
    is_tied = output is not None and output.weight is embedding
    body = everything - embedding.numel() - (0 if is_tied else head)
    return Shape(body=body, head=head, n_layers=sum(depths(holder.config)), width=embedding.shape[1],
                 n_bytes=everything * dtype.itemsize)  # fmt: skip


class _Config:
    """A configuration beside its text, which is what it is remembered by."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Config)


def shape_of(config: Any, *, family: str, dtype: torch.dtype = torch.float32) -> Shape:
    return _shape(config.to_json_string(use_diff=False), family, dtype, _Config(config))


@lru_cache(maxsize=4)
def speed_of(device: str, width: int) -> Speed:
    """Probes this machine for about half a second."""
    a = torch.ones(256, width, device=device)
    b = torch.ones(width, 4 * width, device=device)
    block = torch.ones(16 << 20, device=device)
    products = _rate(lambda: a @ b, device) * 2 * 256 * width * 4 * width
    copies = _rate(block.clone, device) * 2 * block.nbytes
    return Speed(flops=products * EFFICIENCY, bandwidth=copies)


def _rate(action: Any, device: str) -> float:
    """Calls a second."""
    is_cuda = device.startswith("cuda")

    def clock() -> float:
        if is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() if is_cuda else time.process_time() / torch.get_num_threads()

    action()
    n, began = 0, clock()
    while clock() - began < _PROBE_S:
        action()
        n += 1
    return n / (clock() - began)


def costs_of(spec: StudySpec, *, shape: Shape, speed: Speed, rows: Rows) -> dict[str, Cost]:
    """What each of the study's techniques is expected to take, in seconds."""
    work = _Work(spec, shape, speed, _capped(spec, rows))
    return {name: work.trained(name) if name in METHODS else work.asked(name) for name in spec.techniques}


def _capped(spec: StudySpec, rows: Rows) -> Rows:
    """No more rows, and no longer ones, than the study uses."""
    return replace(
        rows, n_train=min(rows.n_train, spec.train_rows or rows.n_train), n_valid=min(rows.n_valid, spec.valid_rows),
        n_test=min(rows.n_test, spec.test_rows), n_tokens=min(rows.n_tokens, spec.max_length),
        n_shared=min(rows.n_shared, rows.n_tokens - rows.n_targets, spec.max_length),
    )  # fmt: skip


class _Work:
    def __init__(self, spec: StudySpec, shape: Shape, speed: Speed, rows: Rows) -> None:
        self.spec, self.shape, self.speed, self.rows = spec, shape, speed, rows
        self.own_tokens = max(1.0, rows.n_tokens - rows.n_shared)

    def _read_s(self, n_tokens: float, n_kept_positions: float = 0) -> float:
        """Seconds of one pass forward."""
        return (2 * self.shape.body * n_tokens + 2 * self.shape.head * n_kept_positions) / self.speed.flops

    def _write_s(self, n_rows: float, n_tokens: float) -> float:
        """Seconds of writing `n_tokens` for each row, a full batch at a time."""
        n_steps = n_tokens * max(1.0, n_rows / _SLOTS)
        a_step = self._read_s(min(n_rows, _SLOTS), min(n_rows, _SLOTS)) + self.shape.n_bytes / self.speed.bandwidth
        return n_steps * a_step

    def _looked_s(self, n_rows: int) -> float:
        """The validation rows once: every label, or the expected answer, scored."""
        extra = self.rows.label_tokens
        kept = n_rows * (extra or self.rows.n_targets)
        return self._read_s(n_rows * (self.own_tokens + extra) + self.rows.n_shared, kept)

    def _answered_s(self, prompt_tokens: float, shared: float, *, n: int = 1, steps: bool = False) -> float:
        """The test rows asked with prompts of that many tokens; `n` answers each."""
        n_rows, labels = self.rows.n_test, self.rows.label_tokens
        own = max(1.0, prompt_tokens - shared)
        if labels and not steps:
            return self._read_s(n_rows * (own + labels) + shared, n_rows * labels)
        written = min(self.spec.max_tokens, _STEPS_WRITTEN if steps else 1.3 * self.rows.n_targets)
        return self._read_s(n_rows * n * own + shared) + self._write_s(n_rows * n, written)

    def asked(self, name: str) -> Cost:
        prompt, shared = self.rows.n_tokens - self.rows.n_targets, self.rows.n_shared
        told = self.rows.label_tokens + 24
        shown = self.spec.n_examples * self.rows.n_tokens
        steps = name in ("chain_of_thought", "self_consistency")
        if name == "plain":
            seconds = self._answered_s(prompt, shared)
        elif name == "few_shot_nearest":
            seconds = self._answered_s(prompt + told + shown, told)
        else:
            in_front = told + (shown if name == "few_shot" else 0)
            n = self.spec.n_votes if name == "self_consistency" else 1
            seconds = self._answered_s(prompt + in_front, in_front + shared, n=n, steps=steps)
        return Cost(search_s=0.0, train_s=0.0, measure_s=seconds)

    def trained(self, name: str) -> Cost:
        steps = int(METHODS[name].defaults.get("steps", self.spec.steps))
        once, a_step, a_look = self._parts(name)
        places = rungs(self.spec.n_tries, steps)
        every = (rungs(max(3, self.spec.n_tries), steps) or [steps])[0]
        n_looks = -(-steps // every)
        searched, n, before = 0.0, self.spec.n_tries, 0
        for rung in places:
            searched += (n - 1) * ((rung - before) * a_step + max(1, (rung - before) // every) * a_look)
            n, before = n_kept(n), rung
        trained = steps * a_step + n_looks * a_look
        prompt = self.rows.n_tokens - self.rows.n_targets
        return Cost(search_s=once + searched, train_s=trained, measure_s=self._answered_s(prompt, self.rows.n_shared))

    def _parts(self, name: str) -> tuple[float, float, float]:
        """Seconds of what is computed once, of a step, and of a look at the validation rows."""
        method, rows = METHODS[name], self.rows
        batch = int(method.defaults.get("batch_size", self.spec.batch_size))
        n_passes = max(1, batch // 8)
        tokens = batch * self.own_tokens + n_passes * rows.n_shared
        body, head = self._read_s(tokens), self._read_s(0, batch * rows.n_targets)
        features = self._read_s(rows.n_train * self.own_tokens)
        look = self._looked_s(rows.n_valid)
        if method.storage == "head":
            return features + look, 1e-3, 0.0
        if method.storage == "weights" and any(field.name == "cache_activations" for field in method.fields):
            k = next((int(field.default) for field in method.fields if field.name == "k"), 0)
            return features, 3 * (head + body * k / self.shape.n_layers), look
        factor = 3.0 if method.form == "own_backbone" else 2.0
        return 0.0, factor * (body + head), look


def chosen_within(spec: StudySpec, costs: Mapping[str, Cost], budget_s: float) -> tuple[list[str], dict[str, float]]:
    """The techniques that fit the budget with all their seeds, the cheapest first, and what those that do not would
    need, by name. No budget: all."""
    whole = {name: total_s(spec, name, cost) for name, cost in costs.items()}
    chosen: list[str] = []
    left, out = budget_s, {}
    for name in sorted(whole, key=whole.__getitem__):
        if budget_s and whole[name] > left:
            out[name] = whole[name]
            continue
        chosen.append(name)
        left -= whole[name]
    return chosen, out


def total_s(spec: StudySpec, name: str, cost: Cost) -> float:
    """All cells of a technique: the search, every seed, the smaller shares."""
    n_seeds = len(spec.seeds) if TECHNIQUES[name].has_chance else 1
    is_on_curve = learns_from_rows(name) and (not spec.curve_techniques or name in spec.curve_techniques)
    n_cells = n_seeds + (len(spec.shares) if is_on_curve else 0)
    return cost.search_s + n_cells * (cost.train_s + cost.measure_s)


def rows_of(dataset: Dataset, tokenizer: Any, *, max_length: int) -> Rows:
    """The figures of a data set with the rows that a study draws; lengths are those of its first training rows."""
    sample = encode_rows(dataset.splits["train"][:MOST_COUNTED], tokenizer, max_length)
    prompts = [example.ids[: example.n_prompt - 1] for example in sample]
    labels = sum(len(completion_ids(tokenizer, label)) for label in dataset.labels)
    n = max(1, len(sample))
    return Rows(
        n_tokens=sum(example.n_tokens for example in sample) / n, n_shared=n_common(prompts) if prompts else 0,
        n_targets=sum(example.n_targets for example in sample) / n, label_tokens=labels,
        **{f"n_{name}": len(dataset.splits[split])
           for name, split in (("train", "train"), ("valid", "validation"), ("test", "test"))},
    )  # fmt: skip
