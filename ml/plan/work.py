"""What operations cost, counted as torch runs them: arithmetic, bytes that pass through memory, calls.

Products and attention have the operations of torch.utils.flop_counter, and the bytes of what goes in and comes out;
everything else that is no view has its bytes alone. Works on the meta device, where nothing is computed. Limits: a
fused kernel counts as the operations that torch shows; causal attention counts in full, as it is counted there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True)
class Work:
    """Some operations together. Multiplies and adds as a number does."""

    flops: float = 0.0
    """Multiplications and additions of products and attention."""
    operands: float = 0.0
    """Bytes that these read and write: weights, inputs, outputs."""
    moved: float = 0.0
    """Bytes that everything else reads and writes."""
    calls: float = 0.0
    """Operations of both kinds."""

    def __add__(self, other: Work) -> Work:
        return Work(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __mul__(self, times: float) -> Work:
        return Work(**{f.name: times * getattr(self, f.name) for f in fields(self)})

    def __sub__(self, other: Work) -> Work:
        return self + other * -1


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


_ON_A_CPU: Mapping[Any, Callable[..., int]] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
_FREE = frozenset({
    _aten.empty, _aten.empty_like, _aten.new_empty, _aten.new_empty_strided, _aten.empty_strided, _aten.detach,
    _aten._unsafe_view, _aten._reshape_alias, _aten.lift_fresh, _aten.is_same_size,
})  # fmt: skip
_PICKS = frozenset({_aten.embedding, _aten.index_select, _aten.index, _aten.gather, _aten.slice_backward})
"""Of what goes in they read no more than what comes out."""
_WRITES = frozenset({_aten.zeros, _aten.zeros_like, _aten.new_zeros, _aten.ones_like, _aten.full, _aten.fill_,
                     _aten.zero_, _aten.arange, _aten.scalar_tensor})  # fmt: skip
"""They read nothing."""


class Counting(TorchDispatchMode):
    """While entered, adds up what operations cost, in `total`."""

    def __init__(self, *, in_place: bool = False) -> None:
        """`in_place`: keys and values lie where they are read, so that joining them to earlier ones costs nothing."""
        super().__init__()
        self.total = Work()
        self._free = _FREE | {_aten.cat} if in_place else _FREE

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        kind = func._overloadpacket
        if func.is_view or kind in self._free:
            return out
        n_out = sum(map(_n_bytes, _tensors(out)))
        n_in = 0 if kind in _WRITES else n_out if kind in _PICKS else sum(map(_n_bytes, _tensors((args, kwargs))))
        if kind in _ON_A_CPU:
            flops = _ON_A_CPU[kind](*args, **kwargs)
        elif kind in flop_registry:
            flops = flop_registry[kind](*args, **kwargs, out_val=out)
        else:
            self.total += Work(moved=n_in + n_out, calls=1)
            return out
        self.total += Work(flops=flops, operands=n_in + n_out, calls=1)
        return out


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _n_bytes(tensor: Tensor) -> int:
    """What is really there of it: an expanded tensor has its storage's bytes."""
    return int(min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()))
