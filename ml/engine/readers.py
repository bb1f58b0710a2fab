"""How a step of one token a row reads keys and values: up to each row's length where a kernel can, else by a mask.

Legend: R rows, H heads, Hkv kv heads, W columns, D head width. A mask keeps sdpa from its flash kernel, so a GPU has
flash-attn's `flash_attn_with_kvcache` (Dao 2023, arXiv 2307.08691) where that is installed, else FlexAttention (Dong
et al. 2024, arXiv 2412.05496) with a block mask of the rows' lengths. Each reader makes what the model is given as its
mask (`begin`) and attends. Guarantee: what they do depends on shapes and on tensors alone, so that a graph can hold it.
Whether one works here, nobody knows before it has: ml.engine.steps tries them in order and takes the first that gives
the model's own logits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ml.engine.attention import NAME

FLASH = ("flash_attn_interface", "flash_attn")
"""Packages with the function, the newer one first."""
BLOCK = 128
"""Columns that FlexAttention skips or reads together."""
MOST_SHAPES = 256
"""Pairs of rows and columns that FlexAttention is compiled for; torch's own limit is 8."""


class Reader(Protocol):
    name: str

    def begin(self, lengths: Tensor, width: int, dtype: torch.dtype) -> Any:
        """From the rows' lengths [R], int32: what goes through the model as a mask, with four dimensions."""

    def __call__(self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **settings: Any) -> Tensor:
        """query [R, H, 1, D], key and value [R, Hkv, W, D] → [R, 1, H, D]."""


class Masked:
    name = "sdpa"

    def begin(self, lengths: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        forbidden = torch.arange(width, device=lengths.device) >= lengths[:, None]  # [R, W]
        scores = torch.zeros(forbidden.shape, dtype=dtype, device=lengths.device)
        return scores.masked_fill_(forbidden, float("-inf"))[:, None, None]  # [R, 1, 1, W]

    def __call__(self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **settings: Any) -> Tensor:
        return sdpa_attention_forward(module, query, key, value, mask, **settings)[0]


class Flash:
    """16-bit numbers on a GPU only."""

    def __init__(self, package: str) -> None:
        """Raises ImportError."""
        self.name = package
        self._attend: Callable[..., Tensor] = import_module(package).flash_attn_with_kvcache
        self._lengths = torch.empty(0)

    def begin(self, lengths: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        self._lengths = lengths
        return lengths.view(-1, 1, 1, 1)

    def __call__(self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **settings: Any) -> Tensor:
        _check(settings)
        return self._attend(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2),  # [R, 1, H, D], [R, W, Hkv, D]
            cache_seqlens=self._lengths, softmax_scale=settings.get("scaling"), causal=False,
        )  # fmt: skip


class Flex:
    name = "flex"

    def __init__(self, *, is_compiled: bool = True) -> None:
        """Uncompiled it computes the same, slowly, on any device."""
        self._attend: Any = _compiled() if is_compiled else flex_attention

    def begin(self, lengths: Tensor, width: int, dtype: torch.dtype) -> BlockMask:
        n_blocks = -(-width // BLOCK)
        used = ((lengths + BLOCK - 1) // BLOCK).to(torch.int32)[:, None, None]  # [R, 1, 1]
        blocks = torch.arange(n_blocks, dtype=torch.int32, device=lengths.device).repeat(len(lengths), 1, 1, 1)
        return BlockMask.from_kv_blocks(
            used, blocks, BLOCK_SIZE=BLOCK, seq_lengths=(1, width), compute_q_blocks=False,
            mask_mod=lambda row, head, query, column: column < lengths[row],
        )  # fmt: skip

    def __call__(self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **settings: Any) -> Tensor:
        _check(settings)
        read = self._attend(
            query, key, value, block_mask=mask, scale=settings.get("scaling"), enable_gqa=query.shape[1] != key.shape[1]
        )
        rows: Tensor = read.transpose(1, 2).contiguous()
        return rows


@cache
def _compiled() -> Callable[..., Any]:
    compiled: Any = torch.compile
    return compiled(flex_attention, dynamic=False, recompile_limit=MOST_SHAPES)  # the stubs lack recompile_limit


def _check(settings: dict[str, Any]) -> None:
    """Raises NotImplementedError for what only a mask can carry."""
    if settings.get("position_bias") is not None:
        raise NotImplementedError("attention with a position bias")


def readers_for(model: Any) -> dict[str, Callable[[], Reader]]:
    """What may serve a model, by name, the fastest first."""
    masked: dict[str, Callable[[], Reader]] = {Masked.name: Masked}
    if model.config._attn_implementation != NAME or model.device.type != "cuda":
        return masked
    is_short = model.dtype in (torch.float16, torch.bfloat16)
    flash = {package: partial(Flash, package) for package in FLASH if is_short and find_spec(package)}
    return {**flash, Flex.name: Flex, **masked}
