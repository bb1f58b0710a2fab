"""Attention of rows that differ in length: each reads about its own columns, not as many as the longest row has.

transformers gives attention functions a name; the one here is its own `sdpa`, called once for each run of neighbouring
rows of about the same width. Among 15 rows of 60 tokens and one of 1,500 a step so reads a tenth of the keys and
values (SmolLM2-135M, one thread: 16 ms instead of 112). Guarantee: what is left out is what the mask forbids. Does
nothing for prompts, for other devices (more launches cost more there), and for models that do not use sdpa.
A step of fixed shape brings its own way of reading (ml.engine.readers), which takes the place of all this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "coldframe_runs"
SPARED = 128
"""Columns, over all rows of a run, that one more call of sdpa must spare."""
Run = tuple[int, int, int]
"""First row, the row after the last, columns."""
_runs: ContextVar[Sequence[Run]] = ContextVar("runs", default=())
_reader: ContextVar[Callable[..., Tensor] | None] = ContextVar("reader", default=None)


def runs_of(widths: Sequence[int]) -> list[Run]:
    """Neighbouring rows that are read together."""
    runs: list[Run] = []
    for row, width in enumerate(widths):
        first, end, most = runs[-1] if runs else (0, 0, width)
        superfluous = (end + 1 - first) * max(most, width) - (end - first) * most - width
        if runs and superfluous <= SPARED:
            runs[-1] = (first, row + 1, max(most, width))
        else:
            runs.append((row, row + 1, width))
    return runs


def even(runs: Sequence[Run]) -> list[Run]:
    """The same rows in a power of two of runs where there are enough rows: each number needs a trace of its own."""
    found = list(runs)
    while len(found) & (len(found) - 1):
        at = max(range(len(found)), key=lambda n: found[n][1] - found[n][0])
        first, end, width = found[at]
        if end - first < 2:
            break
        middle = (first + end) // 2
        found[at : at + 1] = [(first, middle, width), (middle, end, width)]
    return found


@contextmanager
def reading(runs: Sequence[Run]) -> Iterator[None]:
    """The forward inside reads its rows in these runs."""
    token = _runs.set(runs)
    try:
        yield
    finally:
        _runs.reset(token)


@contextmanager
def reading_by(reader: Callable[..., Tensor]) -> Iterator[None]:
    """The forward inside leaves its attention to `reader`, which is given what `_attend` is given."""
    token = _reader.set(reader)
    try:
        yield
    finally:
        _reader.reset(token)


def use_runs(model: Any) -> None:
    """Lets a model's attention read in runs; no other call of it changes."""
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    if model.config._attn_implementation == "sdpa":
        model.config._attn_implementation = NAME


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """query [R, H, Q, D], key and value [R, Hkv, W, D], mask [R, 1, Q, W] → [R, Q, H, D]."""
    reader, runs = _reader.get(), _runs.get()
    if reader is not None:
        return reader(module, query, key, value, mask, **settings), None
    if len(runs) < 2 or mask is None:
        return sdpa_attention_forward(module, query, key, value, mask, **settings)
    parts = [
        sdpa_attention_forward(
            module, query[first:end], key[first:end, :, :width], value[first:end, :, :width],
            mask[first:end, :, :, :width], **settings,
        )[0]
        for first, end, width in runs
    ]  # fmt: skip
    return torch.cat(parts), None
