"""Forward passes over rows of different length, as training and evaluation both need them.

Legend: B rows, S tokens all rows begin with (virtual tokens included), R longest remainder, V vocabulary, N positions.

What all rows of a batch begin with (virtual tokens, system prompt, instruction) runs through the model once, at batch
size 1, and its keys and values are shared; only the remainders are padded, on the right. Gradients flow through the
shared part. The output layer sees only the positions asked for: no [B, T, V] tensor is ever made. Results equal a plain
forward of each row alone up to rounding. Works with any decoder of transformers through its ordinary forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional

from ml.data.chat import Example
from ml.loss import token_nll


def base_of(model: Any) -> Any:
    """The transformers model inside a PEFT model (with its LoRA layers in place), or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


@contextmanager
def plain(model: Any) -> Iterator[Any]:
    """The untouched frozen model inside `model`."""
    if not isinstance(model, PeftModel):
        yield getattr(model, "backbone_model", model)  # a head holds the model that it sits on
        return
    with model.disable_adapter():
        yield model.get_base_model()


@contextmanager
def _output_sees(base: Any, choose: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While open, the output layer gets `choose(hidden)` instead of `hidden` [B, T, D]."""
    hook = base.get_output_embeddings().register_forward_pre_hook(lambda _, args: (choose(args[0]), *args[1:]))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _last_mlp_sees(base: Any, keep: Tensor | None) -> Iterator[None]:
    """While open, the last block's MLP runs for the positions of `keep` [B, T] alone, since no one reads the others.

    What leaves it elsewhere is zero. None: a single position, as some kernels refuse empty input. Nothing happens for
    blocks without a plain MLP.
    """
    mlp, masks = _last_mlp(base), list[Tensor]()
    if mlp is None:
        yield
        return

    def pick(_module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        mask = keep if keep is not None else torch.arange(args[0].shape[1], device=args[0].device)[None] == 0  # [B, T]
        masks.append(mask)
        return (args[0][mask][None],)  # [1, N, D]

    def spread(_module: Any, _args: Any, output: Tensor) -> Tensor:
        mask = masks.pop()
        return output.new_zeros(*mask.shape, output.shape[-1]).index_put((mask,), output[0])  # [B, T, D]

    hooks = [mlp.register_forward_pre_hook(pick), mlp.register_forward_hook(spread)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _last_mlp(base: Any) -> Any:
    """The plain MLP of the last block; None where there is none."""
    depth = getattr(base.config, "num_hidden_layers", 0)
    blocks = next((m for m in base.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth), None)
    mlp = None if blocks is None else getattr(blocks[-1], "mlp", None)
    return mlp if type(mlp).__name__.endswith("MLP") else None


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """Remainders of rows after what they share: right-padded, on the model's device."""

    ids: Tensor
    """[B, R]"""
    mask: Tensor
    """[B, R] true where there is a token."""
    cache: Any
    """Keys and values of the shared part at batch size B; None when nothing is shared."""
    n_past: int
    """S: length of the shared part, virtual tokens included."""
    n_shared: int
    """How many of the rows' own ids are in the shared part."""


def n_common(rows: Sequence[list[int]]) -> int:
    """Length of the longest common prefix of `rows`; 0 for a single row, which has no one to share with."""
    if len(rows) < 2:
        return 0
    low, high = min(rows), max(rows)
    return next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))


def pad_right(rows: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor]:
    """Ids [B, R] padded with 0 and the mask [B, R] of real tokens."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(width, device=device) < lengths[:, None]


def share(model: Any, rows: Sequence[Sequence[int]], n_shared: int) -> Ragged:
    """Runs the first `n_shared` ids (and a PEFT prompt, if any) once; every row keeps at least one id after them."""
    device = base_of(model).device
    cache = _shared_cache(model, rows[0][:n_shared])
    n_past = 0
    if cache is not None:
        n_past = int(cache.get_seq_length())
        for layer in (layer for layer in cache.layers if layer.keys is not None):
            layer.keys = layer.keys.expand(len(rows), -1, -1, -1)
            layer.values = layer.values.expand(len(rows), -1, -1, -1)
    ids, mask = pad_right([row[n_shared:] for row in rows], device)
    return Ragged(ids=ids, mask=mask, cache=cache, n_past=n_past, n_shared=n_shared)


def _shared_cache(model: Any, prefix: Sequence[int]) -> Any:
    base = base_of(model)
    with _output_sees(base, lambda hidden: hidden[:, :0]), _last_mlp_sees(base, None):
        if prefix:
            ids = torch.tensor([list(prefix)], device=base.device)
            return model(input_ids=ids, use_cache=True).past_key_values
        if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
            prompt = model.get_prompt(1)
            if not isinstance(prompt, Tensor):
                return prompt
            return base(inputs_embeds=prompt.to(base.dtype), use_cache=True).past_key_values
    return None


def run(
    model: Any, ragged: Ragged, *, keep: Tensor, mask: Tensor | None = None, positions: Tensor | None = None,
    use_cache: bool = False,
) -> tuple[Tensor, Any]:  # fmt: skip
    """Logits [N, V] at the positions where `keep` [B, R] is true, row by row, and the cache (S + R long).

    `mask` replaces the causal mask: bool [B, 1, R, S + R]. `positions` [B, R] replaces S, S + 1, ….
    """
    base = base_of(model)
    if mask is None:
        past = ragged.mask.new_ones(ragged.mask.shape[0], ragged.n_past)
        mask = torch.cat([past, ragged.mask], dim=1).long()
    if positions is None:
        positions = torch.arange(ragged.ids.shape[1], device=ragged.ids.device)[None] + ragged.n_past
        positions = positions.expand(ragged.ids.shape[0], -1)
    with _output_sees(base, lambda hidden: hidden[keep]), _last_mlp_sees(base, keep):
        out = base(
            input_ids=ragged.ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=ragged.cache,
            use_cache=use_cache or ragged.cache is not None,
        )
    return out.logits, out.past_key_values


def completion_nll(
    model: Any, examples: Sequence[Example], *, sharing: bool = True, whole_rows: bool = False
) -> tuple[Tensor, Tensor]:
    """Negative log likelihood of every completion token [N], and the row that each belongs to [N].

    `sharing=False` shares virtual tokens only: needed while dropout is active, where each row draws its own.
    `whole_rows=True` shares nothing and keeps no keys and values, as gradient checkpointing needs.
    """
    targets = torch.tensor([i for e in examples for i in e.ids[e.n_prompt :]], device=base_of(model).device)
    if whole_rows:
        logits, owner = _whole_rows(model, examples)
    else:
        logits, owner = _remainders(model, examples, sharing=sharing)
    return token_nll(logits, targets), owner


def _remainders(model: Any, examples: Sequence[Example], *, sharing: bool) -> tuple[Tensor, Tensor]:
    """Logits [N, V] that predict the completions, and their rows [N]."""
    rows = [example.ids[:-1] for example in examples]
    common = n_common([example.ids[: example.n_prompt - 1] for example in examples]) if sharing else 0
    ragged = share(model, rows, common)
    column = torch.arange(ragged.ids.shape[1], device=ragged.ids.device)
    first = torch.tensor([e.n_prompt - 1 - common for e in examples], device=ragged.ids.device)
    keep = ragged.mask & (column >= first[:, None])  # [B, R]
    return run(model, ragged, keep=keep)[0], keep.nonzero()[:, 0]


def _whole_rows(model: Any, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    base = base_of(model)
    ids, mask = pad_right([example.ids[:-1] for example in examples], base.device)  # [B, T]
    n_virtual = 0
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        n_virtual = int(model.active_peft_config.num_virtual_tokens)
    column = torch.arange(ids.shape[1], device=ids.device)
    first = torch.tensor([e.n_prompt - 1 for e in examples], device=ids.device)
    keep = mask & (column >= first[:, None])  # [B, T]
    behind = functional.pad(keep, (n_virtual, 0))  # PEFT puts the virtual tokens in front
    with _output_sees(base, lambda hidden: hidden[behind]):
        logits = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
    return logits, keep.nonzero()[:, 0]


def has_dropout(model: torch.nn.Module) -> bool:
    """Whether a forward pass in training mode draws random numbers."""
    config = getattr(model, "config", None)
    inside = float(getattr(config, "attention_dropout", 0) or 0)
    return inside > 0 or any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in model.modules())
