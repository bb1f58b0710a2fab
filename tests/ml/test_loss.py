"""Cross entropy over a vocabulary, held against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ml.loss import token_nll


def test_values_and_gradients_are_torchs_own() -> None:
    torch.manual_seed(0)
    logits = (10 * torch.randn(7, 50)).requires_grad_()
    twin = logits.detach().clone().requires_grad_()
    targets, weights = torch.randint(50, (7,)), torch.rand(7)
    ours, theirs = token_nll(logits, targets), functional.cross_entropy(twin, targets, reduction="none")
    assert torch.allclose(ours, theirs)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    assert logits.grad is not None and twin.grad is not None
    assert torch.allclose(logits.grad, twin.grad, atol=1e-6)


def test_a_token_that_is_all_but_impossible_has_a_finite_loss() -> None:
    assert float(token_nll(torch.tensor([[0.0, 500.0]]), torch.tensor([0]))) == pytest.approx(500.0)


def test_short_numbers_are_computed_in_long_ones() -> None:
    logits = torch.randn(3, 9).bfloat16().requires_grad_()
    loss = token_nll(logits, torch.tensor([0, 4, 8]))
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert logits.grad is not None and logits.grad.dtype == torch.bfloat16


def test_a_second_gradient_is_refused_instead_of_wrong() -> None:
    loss = token_nll(torch.randn(2, 5, requires_grad=True), torch.tensor([1, 2])).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError):
        loss.backward()
