"""Frozen lower layers run once and played back: stand-ins take the places of a stack's blocks.

Legend: B rows, T positions of one pass, D width. While recording, the states that leave the last frozen block are noted
and the blocks above it let them pass. While replaying, stand-ins take the places of the frozen blocks, and the first
brings the noted states back. Places are kept: a block above the cut has its own index, and the first stand-in puts one
number a position into the keys and values, so that a cache knows its length and a shared prefix may be run once.
Dropout below the cut is not drawn: what is frozen is used as in evaluation. A pass must see either every row of the
batch in its order, or (at batch size 1) what all rows begin with; padding must be on the right.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, EncoderDecoderCache

from ml.anatomy import answering_stack, encoder_stack

TENSOR_ALONE = -1


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A stack and how many of its first blocks are frozen."""

    name: str
    """`encoder`, or `answer` for the stack that answers."""
    body: nn.Module
    """Its forward runs the blocks; the `attention_mask` it gets tells padding."""
    blocks: nn.ModuleList
    n_below: int


@dataclass(kw_only=True)
class Tape:
    """What was noted at one cut."""

    passes: list[tuple[Tensor, list[int]]] = field(default_factory=list)
    """States [B, T, D] and each row's number of real positions."""
    n_more: int = TENSOR_ALONE
    """How many values a block returns behind its states; TENSOR_ALONE: no tuple."""


def cuts_of(model: Any, *, n_top: int) -> list[Cut]:
    """Where `model` can be cut when all but the last `n_top` blocks of its answering stack are frozen.

    An encoder-decoder is cut behind its encoder too. A stack whose first block hands a position bias on (T5's) is cut
    behind its last block or not at all; one that drops whole layers at random is not cut.
    """
    cuts, stack, beside = [], answering_stack(model), encoder_stack(model)
    if beside is not None:
        cuts.append(Cut(name="encoder", body=model.get_encoder(), blocks=beside.blocks, n_below=beside.depth))
    if not (n_top and "position_bias" in inspect.signature(stack.blocks[0].forward).parameters):
        body = model.base_model if beside is None else model.get_decoder()
        cuts.append(Cut(name="answer", body=body, blocks=stack.blocks, n_below=stack.depth - n_top))
    return [cut for cut in cuts if cut.n_below > 0 and not getattr(cut.body, "layerdrop", 0)]


class _StandIn(nn.Module):
    """Stands where a block was and lets states pass. The keys and values of its place stay empty."""

    def __init__(self, n_more: int) -> None:
        super().__init__()
        self.n_more = n_more

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return hidden_states if self.n_more == TENSOR_ALONE else (hidden_states, *[None] * self.n_more)


class _Replay(_StandIn):
    """The first of them: brings back each row's states [T, D] from the position on that the cache has come to."""

    def __init__(self, rows: Sequence[Tensor], n_more: int) -> None:
        super().__init__(n_more)
        self.rows = rows

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        cache = _cache_among((*args, *kwargs.values()))
        states = self.states_for(hidden_states, 0 if cache is None else int(cache.get_seq_length()))
        if cache is not None:
            one = states.new_zeros(states.shape[0], 1, states.shape[1], 1)
            cache.update(one, one, 0)
        return super().forward(states)

    def states_for(self, hidden_states: Tensor, n_past: int) -> Tensor:
        states = torch.zeros_like(hidden_states)
        for number in range(len(states)):
            kept = self.rows[number][n_past : n_past + states.shape[1]]
            states[number, : len(kept)] = kept
        return states


def _cache_among(values: Sequence[Any]) -> Any:
    found = next((value for value in values if isinstance(value, Cache)), None)
    return found.self_attention_cache if isinstance(found, EncoderDecoderCache) else found


@contextmanager
def _instead(blocks: nn.ModuleList, stand_ins: Mapping[int, nn.Module]) -> Iterator[None]:
    """While open, `stand_ins` are at their places in `blocks`."""
    own = {place: blocks[place] for place in stand_ins}
    try:
        for place, module in stand_ins.items():
            blocks[place] = module
        yield
    finally:
        for place, module in own.items():
            blocks[place] = module


@contextmanager
def recording(cuts: Sequence[Cut]) -> Iterator[dict[str, Tape]]:
    """While open, what leaves each cut's last frozen block is noted on the tape with the cut's name.

    The blocks above do nothing, so what the model returns means nothing.
    """
    tapes = {cut.name: Tape() for cut in cuts}
    with ExitStack() as opened:
        for cut in cuts:
            above = range(cut.n_below, len(cut.blocks))
            opened.enter_context(_instead(cut.blocks, {n: _StandIn(TENSOR_ALONE) for n in above}))
            opened.enter_context(_noting(cut, tapes[cut.name]))
        yield tapes


@contextmanager
def _noting(cut: Cut, tape: Tape) -> Iterator[None]:
    mask: list[Tensor | None] = [None]

    def look(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        mask[0] = kwargs.get("attention_mask")

    def note(_module: nn.Module, _args: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        tape.n_more = len(output) - 1 if isinstance(output, tuple) else TENSOR_ALONE
        tape.passes.append((states.detach(), _lengths(states, mask[0])))

    hooks = [cut.body.register_forward_pre_hook(look, with_kwargs=True),
             cut.blocks[cut.n_below - 1].register_forward_hook(note)]  # fmt: skip
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _lengths(states: Tensor, mask: Tensor | None) -> list[int]:
    """Real positions of each row among `states` [B, T, D]; a mask [B, S + T] also covers what came before."""
    if mask is None or mask.dim() != 2:
        return [states.shape[1]] * states.shape[0]
    return [int(n) for n in mask[:, -states.shape[1] :].sum(1)]


@contextmanager
def replaying(cuts: Sequence[Cut], rows: Mapping[str, Sequence[Tensor]], n_more: Mapping[str, int]) -> Iterator[None]:
    """While open, the frozen blocks of each cut give the states of `rows` (by the cut's name, one [T, D] a row)."""
    with ExitStack() as opened:
        for cut in cuts:
            more = n_more[cut.name]
            stand_ins: dict[int, nn.Module] = {n: _StandIn(more) for n in range(1, cut.n_below)}
            opened.enter_context(_instead(cut.blocks, {0: _Replay(rows[cut.name], more), **stand_ins}))
        yield
