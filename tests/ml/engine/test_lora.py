"""LoRA matrices in entries that rows share: any rows, any order, any sharing is the formula, row by row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml.engine.lora import Delta, LowRank, plan_of

N_SLOTS, N_IN, N_OUT = 6, 5, 7
CPU = torch.device("cpu")


def delta(rank: int, seed: int) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    return Delta(torch.randn(rank, N_IN, generator=generator), torch.randn(rank, N_OUT, generator=generator))


DELTAS = [None, delta(2, 1), delta(3, 2), delta(1, 3), delta(4, 4), delta(2, 5), delta(2, 6), delta(3, 7)]


@pytest.fixture
def low_rank(monkeypatch) -> LowRank:
    found = LowRank(N_SLOTS, N_IN, N_OUT, torch.zeros(1))
    found.n_written = 0
    write = found._write

    def counted(entry, one):
        found.n_written += 1
        write(entry, one)

    monkeypatch.setattr(found, "_write", counted)
    return found


def select(low_rank: LowRank, first: int, n_rows: int) -> torch.Tensor | None:
    """Prepares forwards over these slots; A [G, r, I] that they read."""
    selected = low_rank.select(first, n_rows, lambda entries: plan_of(entries, CPU))
    low_rank.activate(None if selected is None else (selected[0].tensors, *selected[1:]))
    return None if selected is None else selected[1]


def added(low_rank: LowRank, first: int, n_rows: int, n_tokens: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """x, and what the layer adds to it."""
    select(low_rank, first, n_rows)
    x = torch.randn(n_rows, n_tokens, N_IN, generator=torch.Generator().manual_seed(9))
    y = torch.zeros(n_rows, n_tokens, N_OUT + 3)  # a part of a larger product, as of packed layers
    found = low_rank.add(x, y[..., :N_OUT])
    assert not y[..., N_OUT:].any()
    return x, found


def check(low_rank: LowRank, slots: dict[int, Delta | None], first: int, n_rows: int) -> None:
    x, found = added(low_rank, first, n_rows)
    for row in range(n_rows):
        one = slots.get(first + row)
        expected = x[row] @ one.a.T @ one.b if one else torch.zeros_like(found[row])
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=0)
        assert one or not found[row].any()


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, N_SLOTS - 1), st.sampled_from(range(len(DELTAS)))), min_size=1, max_size=25),
       st.data())  # fmt: skip
def test_any_rows_with_any_adapters_get_their_own_delta(changes, data):
    low_rank, slots = LowRank(N_SLOTS, N_IN, N_OUT, torch.zeros(1)), {}
    for slot, kind in changes:
        low_rank.set(slot, DELTAS[kind])
        slots[slot] = DELTAS[kind]
        first = data.draw(st.integers(0, N_SLOTS - 1))
        check(low_rank, slots, first, data.draw(st.integers(1, N_SLOTS - first)))


def test_rows_of_one_adapter_share_an_entry_that_is_read_once(low_rank):
    for slot, kind in enumerate([1, 2, 1, 1, 2]):
        low_rank.set(slot, DELTAS[kind])
    assert low_rank.n_written == 2 and set(low_rank.entry_of.values()) == {0, 1}
    assert len(select(low_rank, 0, 5)) == 2


def test_a_row_that_moves_takes_its_adapter_along_without_a_copy(low_rank):
    low_rank.set(0, DELTAS[1])
    low_rank.set(1, DELTAS[2])
    low_rank.set(0, DELTAS[2])
    low_rank.set(1, DELTAS[1])
    assert low_rank.n_written == 2
    check(low_rank, {0: DELTAS[2], 1: DELTAS[1]}, 0, 2)


def test_what_a_larger_adapter_leaves_behind_does_not_reach_a_smaller_one(low_rank):
    """Its A can overflow even where B is zero: 0 x infinity is not a number."""
    low_rank.set(0, Delta(torch.full((4, N_IN), 3e38), torch.ones(4, N_OUT)))
    low_rank.set(0, DELTAS[1])
    low_rank.set(1, DELTAS[4])
    check(low_rank, {0: DELTAS[1], 1: DELTAS[4]}, 0, 2)


def test_an_adapter_that_comes_back_is_not_written_again(low_rank):
    low_rank.set(0, DELTAS[1])
    low_rank.set(0, None)
    low_rank.set(3, DELTAS[1])
    assert low_rank.n_written == 1
    check(low_rank, {3: DELTAS[1]}, 2, 3)


def test_an_entry_of_an_adapter_that_is_gone_is_not_taken_for_another(low_rank):
    low_rank.set(0, delta(2, 50))
    low_rank.set(0, None)
    other = delta(2, 51)
    low_rank.set(0, other)
    assert low_rank.n_written == 2
    check(low_rank, {0: other}, 0, 1)


def test_few_entries_left_far_apart_move_together(low_rank):
    for slot in range(6):
        low_rank.set(slot, DELTAS[1 + slot])
    for slot in (0, 1, 2, 4):
        low_rank.set(slot, None)
    assert len(select(low_rank, 0, 6)) == 2 and low_rank.n_written == 6
    check(low_rank, {3: DELTAS[4], 5: DELTAS[6]}, 0, 6)


@pytest.mark.parametrize("entries", [[4, 5, 6], [2, 2, 2], [1, 1, 2, 2]])
def test_where_all_rows_are_in_the_order_of_their_adapters_nothing_is_gathered(entries):
    plan = plan_of(entries, CPU)
    assert plan.tensors == () and plan.entries == slice(entries[0], entries[-1] + 1)


def test_rows_apart_are_added_where_they_are_in_the_order_of_their_adapters():
    rows, targets, sources = plan_of([0, -1, 1, 0, -1, 1, 1], CPU).tensors
    assert rows.tolist() == [0, 3, 0, 2, 5, 6] and targets.tolist() == [0, 3, 2, 5, 6]
    assert sources.tolist() == [0, 1, 3, 4, 5]


def test_without_adapters_there_is_no_plan(low_rank):
    assert plan_of([-1, -1], CPU) is None
    x, y = torch.randn(2, 1, N_IN), torch.randn(2, 1, N_OUT)
    assert select(low_rank, 0, 2) is None and low_rank.add(x, y) is y
