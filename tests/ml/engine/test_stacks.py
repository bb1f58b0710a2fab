"""LoRA matrices by row of a step: any rows in any order are the formula, and only what has changed is copied."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ml.engine.lora import Delta
from ml.engine.scales import Scale
from ml.engine.sites import SiteBank
from ml.engine.stacks import Stacks

N_SLOTS, N_IN, N_OUT = 6, 5, 7


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(N_IN, N_OUT, bias=False), nn.Linear(N_IN, N_OUT, bias=False)
        self.device = torch.device("cpu")


def delta(rank: int, seed: int) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    return Delta(torch.randn(rank, N_IN, generator=generator), torch.randn(rank, N_OUT, generator=generator))


CHANGES = [
    {}, {"first": delta(2, 1), "second": delta(3, 2)}, {"first": delta(9, 3)}, {"second": delta(1, 4)},
    {"first": delta(20, 5), "second": delta(20, 6)}, {"second": Scale(torch.full((N_OUT,), 3.0), "outputs")},
]  # fmt: skip


class Case:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Model().requires_grad_(False)
        self.bank = SiteBank(self.model, N_SLOTS)
        self.n_moves = 0
        self.stacks = Stacks(self.bank, N_SLOTS, self._moved)

    def _moved(self) -> None:
        self.n_moves += 1

    def put(self, *kinds: int) -> None:
        for slot, kind in enumerate(kinds):
            self.bank.set(slot, CHANGES[kind])

    def check(self, n_live: int, n_rows: int) -> None:
        forms = self.stacks.use(n_live, n_rows)
        assert hash(forms) is not None
        self.stacks.activate()
        x = torch.randn(n_rows, 1, N_IN, generator=torch.Generator().manual_seed(9))
        for name in ("first", "second"):
            layer = self.model.get_submodule(name)
            plain = x @ layer.weight.T
            found = layer(x)
            for row in range(n_live):
                one, expected = self.bank.rows.get(row, {}).get(name), plain[row]
                if isinstance(one, Delta):
                    expected = expected + x[row] @ one.a.T @ one.b
                elif one is not None:
                    expected = expected * one.factors
                torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-5)
                assert one or torch.equal(found[row], nn.functional.linear(x, layer.weight)[row])


@pytest.fixture
def case() -> Case:
    return Case()


@pytest.fixture
def n_copied(monkeypatch) -> list[int]:
    """Tensors of each copy."""
    found: list[int] = []
    copy = torch._foreach_copy_
    monkeypatch.setattr(torch, "_foreach_copy_", lambda to, of: (found.append(len(to)), copy(to, of)))
    return found


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, N_SLOTS - 1), st.integers(0, len(CHANGES) - 1)), min_size=1, max_size=20),
       st.data())  # fmt: skip
def test_any_rows_with_any_adapters_get_their_own_delta(moves, data):
    case = Case()
    for slot, kind in moves:
        case.bank.set(slot, CHANGES[kind])
        n_live = data.draw(st.integers(1, N_SLOTS))
        case.check(n_live, data.draw(st.integers(n_live, N_SLOTS)))


def test_rows_that_stay_are_not_copied_again(case, n_copied):
    case.put(1, 2, 3)
    case.check(3, 4)
    case.check(3, 4)
    assert n_copied == [2 * (2 + 1 + 1)]
    case.bank.set(1, CHANGES[3])
    case.check(3, 4)
    assert n_copied[1:] == [2]


def test_an_adapter_that_all_rows_have_is_kept_and_read_once(case, n_copied):
    case.put(1, 1, 1)
    case.check(3, 4)
    assert case.stacks.forms[0] == 1 and n_copied == [4]


def test_steps_with_the_same_forms_are_told_from_others(case):
    def forms(*kinds: int) -> object:
        case.put(*kinds)
        return case.stacks.use(len(kinds), 4)

    assert forms(0, 0, 0) != forms(1, 0, 0) != forms(2, 0, 0) != forms(5, 0, 0)
    assert forms(1, 0, 0) == forms(0, 0, 1) == forms(1, 1, 0) != forms(1, 1, 1)


def test_a_higher_rank_moves_the_matrices_and_says_so(case):
    case.put(1, 0)
    case.check(2, 2)
    moved = case.n_moves
    case.put(1, 3)
    case.check(2, 2)
    assert case.n_moves == moved
    case.put(1, 4)
    case.check(2, 2)
    assert case.n_moves == moved + 1


def test_an_adapter_that_is_gone_is_not_kept_alive(case):
    changes = {"first": delta(2, 60)}
    gone = weakref.ref(changes["first"])
    case.bank.set(0, changes)
    case.check(1, 1)
    case.bank.set(0, None)
    del changes
    gc.collect()
    assert gone() is None
    case.put(2)
    case.check(1, 1)


def test_after_a_step_the_usual_forwards_go_by_their_own_matrices(case):
    case.put(1, 2)
    case.check(2, 2)
    selection = case.bank.select(1, 1)
    selection.activate(selection.tensors)
    x = torch.randn(1, 3, N_IN)
    expected = x @ case.model.first.weight.T + x @ CHANGES[2]["first"].a.T @ CHANGES[2]["first"].b
    torch.testing.assert_close(case.model.first(x), expected, atol=1e-5, rtol=1e-5)
