"""What the meta device cannot know, answered for the worst case, so that the real code runs there with shapes alone.

Attention is fused, as on the device that is planned for: it keeps queries, keys, values, output and one number a
query, never a [T, T] matrix; where the CPU has no fused kernel (dropout inside attention, a trained bias) the plain one
runs. A choice by a mask takes as many positions as are trained; a question about a mask's content is answered "no" (it
has padding). Thread-local: other threads are not touched.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Variable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_SHORT = frozenset({
    functional.linear, functional.scaled_dot_product_attention, torch.matmul, torch.bmm, torch.mm, torch.addmm,
    torch.baddbmm, torch.einsum, Tensor.matmul, Tensor.__matmul__, Tensor.bmm, Tensor.mm,
})  # fmt: skip
"""Of what autocast computes in 16 bits: what transformers' layers use."""
_LONG = frozenset({functional.layer_norm, functional.softmax, functional.log_softmax, torch.softmax})
"""Of what it computes in 32 bits on CUDA."""


def _lengthened(value: Any) -> Any:
    is_short = isinstance(value, Tensor) and value.is_meta and value.dtype == torch.bfloat16
    return value.float() if is_short else value


def _no(*_: Any) -> bool:
    return False


class Shapes(TorchFunctionMode):
    """While entered, operations on meta tensors that depend on values get an answer of the right shape."""

    def __init__(self, *, n_chosen: int, device: str, is_short: bool = False) -> None:
        """`is_short`: as under autocast to bfloat16, which torch does not have for this device."""
        super().__init__()
        self.n_chosen, self.is_cpu, self.is_short = n_chosen, not device.startswith("cuda"), is_short
        self._short_weights: dict[Tensor, Tensor] = {}
        self._answers: dict[Any, Any] = {
            functional.scaled_dot_product_attention: self._attention,
            Tensor.__getitem__: self._choice,
            Tensor.index_put: self._putting,
            Tensor.nonzero: self._places,
            Tensor.__bool__: _no,
            Tensor.__contains__: _no,
            Tensor.__int__: lambda *_: 0,
            Tensor.item: _no,
            Tensor.tolist: lambda _, tensor: [0] * tensor.numel(),
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.is_short and func in _SHORT:
            args = tuple(self._shortened(arg) for arg in args)
            kwargs = {name: self._shortened(arg) for name, arg in kwargs.items()}
        elif self.is_short and func in _LONG and not self.is_cpu:
            args = tuple(_lengthened(arg) for arg in args)
            kwargs = {name: _lengthened(arg) for name, arg in kwargs.items()}
        answer = self._answers.get(func)
        if answer is not None and isinstance(args[0] if args else None, Tensor) and args[0].is_meta:
            return answer(func, *args, **kwargs)
        return func(*args, **kwargs)

    def leave_autocast(self) -> None:
        """After the forward pass: its casts of trained weights are kept no longer than the graph needs them."""
        self._short_weights.clear()

    def _shortened(self, value: Any) -> Any:
        if not (isinstance(value, Tensor) and value.is_meta and value.dtype == torch.float32):
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(torch.bfloat16)
        if value not in self._short_weights:
            self._short_weights[value] = value.to(torch.bfloat16)
        return self._short_weights[value]

    def _attention(
        self, func: Any, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
        dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        trained_bias = attn_mask is not None and attn_mask.requires_grad
        if self.is_cpu and (dropout_p > 0 or trained_bias):
            return func(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.where(attn_mask, query.new_zeros(()), query.new_zeros(()))
        elif attn_mask is not None:
            attn_mask = attn_mask.detach()
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return fused(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]

    def _choice(self, func: Any, tensor: Tensor, index: Any) -> Any:
        if not (isinstance(index, Tensor) and index.dtype == torch.bool):
            return func(tensor, index)
        rows = tensor.reshape(-1, *tensor.shape[index.dim() :])
        return rows.index_select(0, self._chosen())

    def _putting(self, func: Any, tensor: Tensor, indices: Any, values: Tensor) -> Any:
        if indices[0].dtype != torch.bool:
            return func(tensor, indices, values)
        rows = tensor.reshape(-1, *tensor.shape[indices[0].dim() :])
        return func(rows, (self._chosen(),), values).view(tensor.shape)

    def _chosen(self) -> Tensor:
        return torch.zeros(self.n_chosen, dtype=torch.long, device="meta")

    def _places(self, _: Any, tensor: Tensor) -> Tensor:
        return torch.empty(self.n_chosen, tensor.dim(), dtype=torch.long, device="meta")


def backward(loss: Tensor) -> None:
    """`loss.backward()` that stays inside an entered Shapes, so that checkpointed layers are computed again there.

    Tensor.backward and torch.autograd.backward are torch functions themselves, within which no mode is active.
    """
    Variable._execution_engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )
