"""The loss of tokens among many: cross entropy that needs one [N, V] buffer instead of three."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _TokenNll(torch.autograd.Function):
    """The log probabilities are kept from the forward pass and become the gradient in place."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        logprobs = logits.log_softmax(-1)  # [N, V]
        ctx.save_for_backward(logprobs, targets)
        return -logprobs.gather(1, targets[:, None])[:, 0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logprobs, targets = ctx.saved_tensors
        (weight,) = gradients  # [N]
        slope: Tensor = logprobs.exp_()
        slope.scatter_add_(1, targets[:, None], slope.new_full((1, 1), -1.0).expand(len(targets), 1))
        return slope.mul_(weight[:, None]), None


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log likelihood [N] in nats of `targets` [N] under `logits` [N, V]; computed in float32.

    Its gradient can be taken once: the kept log probabilities are used up by it.
    """
    found: Tensor = _TokenNll.apply(logits.float(), targets)
    return found
