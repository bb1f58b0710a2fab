"""Where things are in a transformers model: the blocks, the norm behind them, what turns states into answers.

Found by structure, not by name, so that Llama, Qwen2, Mistral, Gemma, GPT-2, BERT, RoBERTa, DistilBERT, T5 and BART
need no table here: the blocks are the longest run of equal layers in the stack that gives the answer (an
encoder-decoder's decoder, otherwise the only stack). Nothing is read from weights: models on the meta device work too.
Limit: one stack of blocks; models whose layers are several lists side by side are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from ml.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A run of blocks and what stands around it."""

    blocks: nn.ModuleList
    norm: nn.Module | None
    """Behind the last block; None where each block ends in its own (BERT, BART)."""

    @property
    def depth(self) -> int:
        return len(self.blocks)


def answering_stack(model: Any) -> Stack:
    """The blocks whose output becomes the answer: an encoder-decoder's decoder, else the model's only stack.

    Raises ModelError when there is not exactly one list of blocks.
    """
    return _stack_in(model.get_decoder() if model.config.is_encoder_decoder else model.base_model, model)


def encoder_stack(model: Any) -> Stack | None:
    """The encoder's blocks of an encoder-decoder; None for other families."""
    return _stack_in(model.get_encoder(), model) if model.config.is_encoder_decoder else None


def output_modules(model: Any) -> list[nn.Module]:
    """What turns final states into answers: the output layer, or an encoder's pooler and classifier.

    Raises ModelError when there is none.
    """
    output = model.get_output_embeddings()
    if output is not None:
        return [output]
    around = [child for name, child in model.named_children() if name != model.base_model_prefix]
    found = [module for module in around if any(True for _ in module.parameters())]
    pooler = getattr(model.base_model, "pooler", None)
    if model.base_model is model or not found:
        raise ModelError(
            f"{type(model).__name__} has no output layer.",
            hint="Choose a model that answers: a language model, or an encoder with the data set's labels on it.",
            field="base",
        )
    return [*([pooler] if pooler is not None else []), *found]


def _stack_in(stack: nn.Module, model: Any) -> Stack:
    outermost: list[str] = []
    for name, module in stack.named_modules():
        nested = any(name.startswith(f"{found}.") for found in outermost)
        if isinstance(module, nn.ModuleList) and _are_blocks(module) and not nested:
            outermost.append(name)
    longest = max((len(_list_at(stack, name)) for name in outermost), default=0)
    found = [name for name in outermost if len(_list_at(stack, name)) == longest]
    if len(found) != 1:
        raise ModelError(
            f"The layers of {type(model).__name__} cannot be told apart: {len(found)} lists of blocks.",
            hint="Use a model with one stack of equal layers, such as Llama, GPT-2, BERT, T5 or BART.",
            field="base",
        )
    parent = stack.get_submodule(found[0].rpartition(".")[0])
    norms = [child for name, child in parent.named_children() if _is_norm(child) and "embed" not in name]
    return Stack(blocks=_list_at(stack, found[0]), norm=norms[-1] if norms else None)


def _list_at(stack: nn.Module, name: str) -> nn.ModuleList:
    return cast(nn.ModuleList, stack.get_submodule(name))


def _are_blocks(modules: nn.ModuleList) -> bool:
    """Equal layers that each have matrices: not a list of norms, not a block's inner list of parts."""
    return len({type(m) for m in modules}) == 1 and any(p.dim() == 2 for p in modules.parameters())


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__ and next(module.parameters(), None) is not None
