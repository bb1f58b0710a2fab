"""Weights as a CPU reads them fastest: half the bytes, the same numbers.

Most checkpoints are in bf16 or fp16 and computed in float32, so that their weights are float16 numbers as well. Linear
layers of which that is true are kept a second time, as float16 in the order in which FBGEMM (Khudia et al. 2021, arXiv
2101.05615) multiplies; it widens them in registers, and inputs, products and sums stay float32. Layers that are given
the same tensor (q, k, v; gate, up) are one product; which ones are is seen by running the model once, not by their
names.

Guarantees: a layer is packed only if that changes its outputs by less than float32 rounds them; modules keep their
names, weights and state_dict, and deep copies share the packs; a layer whose tensors were replaced goes by its own.
Costs half of these layers' float32 bytes. Does nothing on other devices and dtypes, for layers in 4 bits, and for
checkpoints that were trained in float32. No gradients.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import psutil
import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)
_ENGINES = ("x86", "fbgemm")
"""Of torch's quantized kernels, those that can do it."""
_ROUNDING = 2.0**-24
_PROBE = [1, 2, 3]
"""Token ids that the model is run on."""


class Pack:
    """Linear layers that are given the same tensor, as one product."""

    def __init__(self, modules: Sequence[Any]) -> None:
        self._tensors = [(module.weight, module.bias) for module in modules]
        weights = [_weight_of(module) for module in modules]
        self._sizes = [len(weight) for weight in weights]
        biases = [b if b is not None else w.new_zeros(len(w)) for w, (_, b) in zip(weights, self._tensors, strict=True)]
        bias = torch.cat(biases) if any(b is not None for _, b in self._tensors) else None
        self.packed = torch.ops.quantized.linear_prepack_fp16(torch.cat(weights), bias)
        self._given: tuple[Tensor | None, dict[int, Tensor]] = (None, {})
        """The tensor that came last, and the layers' products with it that nobody has taken yet."""
        self.n_bytes = 2 * sum(weight.numel() for weight in weights)

    def __deepcopy__(self, memo: dict[int, Any]) -> Pack:
        return self

    def is_of(self, at: int, module: Any) -> bool:
        """Whether layer `at` still has the tensors that were packed."""
        weight, bias = self._tensors[at]
        return module.weight is weight and module.bias is bias

    def product(self, at: int, x: Tensor) -> Tensor:
        """Layer `at` of x [..., I]: [..., O]."""
        given, products = self._given
        if given is not x or at not in products:
            y: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self.packed)
            if len(self._sizes) == 1:
                return y
            products = dict(enumerate(y.split(self._sizes, -1)))
            self._given = (x, products)
        product = products.pop(at)
        if not products:
            self._given = (None, {})
        return product


@cache
def _with_pack(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass of a linear layer's class that multiplies by its pack. Weights, names and state_dict stay."""

    class WithPack(kind):  # type: ignore[valid-type, misc]
        def forward(self, x: Tensor) -> Tensor:
            pack, at = self.coldframe_pack
            return pack.product(at, x) if pack.is_of(at, self) else super().forward(x)

    WithPack.__name__ = WithPack.__qualname__ = f"{kind.__name__}WithPack"
    return WithPack


class Packs:
    """Those of one model, which goes by them from now on."""

    def __init__(self, model: Any) -> None:
        self.by_name: dict[str, Pack] = {}
        self._model = model
        found = _packable(model)
        n_bytes = sum(2 * module.weight.numel() for module in found.values())
        if (free := psutil.virtual_memory().available) < 2 * n_bytes:
            logger.warning("weights stay as they are: packing takes %d MB of %d", n_bytes >> 20, free >> 20)
            return
        for names in _groups(model, found):
            pack = Pack([found[name] for name in names])
            for at, name in enumerate(names):
                module = found[name]
                object.__setattr__(module, "coldframe_pack", (pack, at))
                module.__class__ = _with_pack(type(module))  # type: ignore[arg-type]
                self.by_name[name] = pack

    @property
    def n_bytes(self) -> int:
        return sum(pack.n_bytes for pack in set(self.by_name.values()))

    def remove(self) -> None:
        """Gives the model's layers their own classes back."""
        for name in self.by_name:
            module = self._model.get_submodule(name)
            module.__class__ = type(module).__mro__[1]
            del module.coldframe_pack
        self.by_name.clear()


def packed_weights(model: Any) -> list[Any]:
    """Those that the model's layers go by, as FBGEMM keeps them; by whomever they were packed."""
    packs: set[Pack] = {module.coldframe_pack[0] for module in model.modules() if hasattr(module, "coldframe_pack")}
    return [pack.packed for pack in packs]


def _weight_of(module: Any) -> Tensor:
    """[O, I]; Conv1D of transformers keeps it transposed."""
    weight: Tensor = module.weight.detach()
    return weight if isinstance(module, nn.Linear) else weight.t()


def _packable(model: Any) -> dict[str, Any]:
    if torch.backends.quantized.engine not in _ENGINES:
        return {}
    kinds = [(name, module) for name, module in model.named_modules() if _is_linear(module)]
    return {name: module for name, module in kinds if _is_lossless(_weight_of(module))}


def _is_linear(module: nn.Module) -> bool:
    """No subclass: it may compute something else."""
    return type(module) is nn.Linear or f"{type(module).__module__}.{type(module).__name__}" == (
        "transformers.pytorch_utils.Conv1D"
    )


def _is_lossless(weight: Tensor) -> bool:
    """Whether float16 holds these float32 numbers, all but a few tiny ones: what is lost of a row must be less than a
    2^-24 part of its length, float32's own rounding. The first rows usually tell."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or weight.dim() != 2:
        return False
    return all(
        bool(((part - part.half()).norm(dim=1) <= _ROUNDING * part.norm(dim=1)).all()) for part in (weight[:8], weight)
    )


def _groups(model: Any, modules: dict[str, Any]) -> list[list[str]]:
    """Names of the layers that are given the very same tensor, in the order in which they are called."""
    given: list[tuple[Tensor, str]] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: given.append((inputs[0], name)))
        for name, module in modules.items()
    ]
    try:
        model(input_ids=torch.tensor([_PROBE], device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    called = Counter(name for _, name in given)
    groups: dict[object, list[str]] = {}
    for x, name in given:
        names = groups.setdefault(id(x) if called[name] == 1 else name, [])
        names += [name] if name not in names else []
    return [*groups.values(), *([name] for name in modules if name not in called)]
