"""Prefix-tuning (Li and Liang 2021, arXiv 2101.00190): trained keys and values at the start of every layer's attention.

They start as the frozen model's own keys and values of sampled vocabulary (the paper's section 7.4: activations of real
words, against random numbers, which PEFT takes), or come out of the paper's MLP (section 4.3), which starts at random
and of which only the output is kept. Deviations: an encoder-decoder gets them in its decoder's self-attention only, as
PEFT has it (the paper: in both stacks); an encoder's new classifier is trained beside them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import PrefixTuningConfig
from torch import Tensor
from transformers import DynamicCache

from ml.backbone import Backbone
from ml.errors import SpecError
from ml.methods import task_type
from ml.methods.common import put_on, sampled_vocabulary


def build(backbone: Backbone, options: Mapping[str, Any], seed: int) -> Any:
    """The backbone with `n_virtual_tokens` trained keys and values [n, 2 · layers · heads · width].

    Raises SpecError for models that take no keys and values from outside or whose layers differ in their shape.
    """
    n_tokens = int(options["n_virtual_tokens"])
    start = _keys_and_values(backbone, n_tokens, seed)  # per layer [2, heads, n, width]
    n_layers, (_, n_heads, _, width) = len(start), start[0].shape
    config = PrefixTuningConfig(
        task_type=task_type(backbone),
        num_virtual_tokens=n_tokens,
        prefix_projection=bool(options["projection"]),
        encoder_hidden_size=int(options["projection_width"]),
        num_layers=n_layers,
        num_attention_heads=n_heads,
        token_dim=n_heads * width,
    )
    model = put_on(backbone, config)
    agreed = (config.num_layers, config.num_attention_heads, config.token_dim)
    if any(layer.shape != start[0].shape for layer in start) or agreed != (n_layers, n_heads, n_heads * width):
        raise _refusal(backbone, "keys and values that PEFT's prefix cannot hold")
    if not options["projection"] and backbone.model.device.type != "meta":
        flat = torch.stack(start).permute(3, 0, 1, 2, 4)  # [n, layers, 2, heads, width]
        model.prompt_encoder["default"].embedding.weight.data.copy_(flat.reshape(n_tokens, -1))
    return model


def _refusal(backbone: Backbone, what: str) -> SpecError:
    return SpecError(
        f"{backbone.name} is a {backbone.model.config.model_type} model with {what}: it cannot have a trained prefix.",
        hint="Use prompt tuning, P-tuning or LoRA.",
        field="method",
    )


@contextmanager
def _without_looking(model: Any) -> Iterator[None]:
    """On the meta device: attention that does not look for padding in masks, which have no values there."""
    before = model.config._attn_implementation
    if model.device.type == "meta":
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if model.device.type == "meta":
            model.set_attn_implementation(before)


@torch.no_grad()
def _keys_and_values(backbone: Backbone, n_tokens: int, seed: int) -> list[Tensor]:
    """What each layer's self-attention keeps of `n_tokens` sampled tokens: [2, heads, n, width] a layer."""
    model = backbone.model
    ids = torch.tensor([sampled_vocabulary(backbone, n_tokens, seed)], device=model.device)
    words = model.get_input_embeddings()(ids)  # [1, n, D]; given instead of ids, which models look into for padding
    cache: Any = DynamicCache()
    with _without_looking(model):
        if backbone.family == "encoder_decoder":
            out = model.base_model(inputs_embeds=words, decoder_inputs_embeds=words, use_cache=True)
            cache = out.past_key_values.self_attention_cache
        elif "past_key_values" in inspect.signature(model.base_model.forward).parameters:
            model.base_model(inputs_embeds=words, past_key_values=cache, use_cache=True)
    if not cache.layers or cache.get_seq_length() != n_tokens:
        raise _refusal(backbone, "layers that take no keys and values from outside")
    return [torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers]
