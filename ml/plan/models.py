"""A base model without storage, of any depth, made from its configuration alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from ml.backbone import Backbone
from ml.loading import FRESH, import_bitsandbytes, model_class

_DEPTHS = (
    ("encoder_layers", "num_layers", "n_layers", "n_layer", "num_hidden_layers"),
    ("decoder_layers", "num_decoder_layers"),
)
"""Names of the number of layers in configurations: of the only or first stack, of the second."""
_BLOCK, _NESTED_BLOCK = 64, 256


def depths(config: Any) -> list[int]:
    """The number of layers of each stack: one, or two for an encoder-decoder."""
    found = []
    for names in _DEPTHS if getattr(config, "is_encoder_decoder", False) else _DEPTHS[:1]:
        said = [getattr(config, name, None) for name in names]
        found += [int(depth) for depth in said if depth][:1]
    return found


def with_depths(config: Any, wanted: Sequence[int]) -> Any:
    """A copy of `config` whose stacks have `wanted` layers."""
    made = copy.deepcopy(config)
    for names, depth in zip(_DEPTHS, wanted, strict=False):
        for name in reversed(names):
            if getattr(made, name, None):
                setattr(made, name, depth)
    if kinds := getattr(made, "layer_types", None):
        made.layer_types = list(kinds)[: wanted[0]]
    return made


def model_on_meta(config: Any, *, family: str, dtype: torch.dtype, labels: Sequence[str] | None) -> Any:
    """The model that `ml.backbone.load_backbone` would load, frozen, on the meta device."""
    kind = model_class(family, labels or ())
    if family == "encoder" and labels:
        config = copy.deepcopy(config)
        config.num_labels = len(labels)
    with torch.device("meta"):
        try:
            model = kind.from_config(config, dtype=dtype, attn_implementation="sdpa")
        except ValueError:  # a model without fused attention
            model = kind.from_config(config, dtype=dtype, attn_implementation="eager")
    return model.eval().requires_grad_(False)


class _Unpacked(torch.autograd.Function):
    """x W with W [out, in] unpacked anew in both directions, as 4-bit layers do; nothing is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, int], bias: Tensor | None) -> Tensor:
        ctx.shape = shape
        return functional.linear(x, x.new_empty(shape), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] @ gradients[0].new_empty(ctx.shape), None, None


def quantize(model: Any, *, double: bool, dtype: torch.dtype) -> None:
    """Every linear layer but the output layer as NF4 (bitsandbytes): half a byte a weight, and its scales.

    Scales (arXiv 2305.14314, section 3): a float32 for 64 weights; doubly quantized a byte for 64 and a float32 for
    256 of those.
    """
    import_bitsandbytes()
    skipped = {*FRESH, *(getattr(model, "_keep_in_fp32_modules", None) or ())}
    head = model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        linear = isinstance(layer, Conv1D) or type(layer) is nn.Linear
        if linear and layer is not head and skipped.isdisjoint(name.split(".")):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, _four_bit(layer, double=double, dtype=dtype))
    model.is_loaded_in_4bit = True


def _four_bit(layer: Any, *, double: bool, dtype: torch.dtype) -> nn.Module:
    import bitsandbytes as bnb

    class Packed(bnb.nn.Linear4bit):  # type: ignore[name-defined]
        def forward(self, x: Tensor) -> Tensor:
            wide = _Unpacked.apply(x.to(dtype), (self.out_features, self.in_features), self.bias)
            return wide.to(x.dtype)

    n_in, n_out = layer.weight.shape if isinstance(layer, Conv1D) else reversed(layer.weight.shape)
    with torch.device("meta"):
        packed = Packed(
            n_in, n_out, layer.bias is not None, compute_dtype=dtype,
            compress_statistics=double, quant_type="nf4", device="meta",
        )  # fmt: skip
        n = n_in * n_out
        packed.weight = bnb.nn.modules.Params4bit(
            torch.empty((n + 1) // 2, 1, dtype=torch.uint8), requires_grad=False, compress_statistics=double,
            quant_type="nf4", bnb_quantized=True,
        )  # fmt: skip
        blocks = -(-n // _BLOCK)
        scales = torch.empty(blocks, dtype=torch.uint8 if double else torch.float32)
        packed.register_buffer("scales", scales, persistent=False)
        if double:
            packed.register_buffer("nested", torch.empty(-(-blocks // _NESTED_BLOCK) + 272), persistent=False)
    packed.bias = layer.bias
    return packed


def backbone_on_meta(
    config: Any, *, family: str, dtype: torch.dtype, labels: Sequence[str] | None, options: Mapping[str, Any]
) -> Any:
    """A `ml.backbone.Backbone` whose model has no storage and which has no tokenizer."""
    model = model_on_meta(config, family=family, dtype=dtype, labels=labels)
    if "double_quantization" in options:
        quantize(model, double=bool(options["double_quantization"]), dtype=dtype)
    return Backbone(
        model=model, tokenizer=None, fingerprint="", family=family, labels=tuple(labels or ()), name="planned",
        folder=Path(),
    )  # fmt: skip
