"""What a study may spend: the order by cost, what no longer fits and why, and what survives a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ml.study.budget import KINDS, Budget, Cost
from ml.study.cells import Cell

COSTS = {
    "full": Cost(search_s=100, train_s=200, measure_s=20),
    "plain": Cost(search_s=0, train_s=0, measure_s=10),
    "lora": Cost(search_s=40, train_s=50, measure_s=10),
}
FULL, LORA, SECOND = Cell(technique="full", seed=17), Cell(technique="lora", seed=17), Cell(technique="lora", seed=18)
UNKNOWN = Cell(technique="ia3", seed=17)
Make = Callable[..., Budget]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("ml.study.budget.time.monotonic", found)
    return found


@pytest.fixture
def make(clock: Clock, tmp_path: Path) -> Make:
    return lambda limit_s=0.0, **costs: Budget(tmp_path / "spent.json", limit_s=limit_s, costs=costs or COSTS)


def test_the_cheapest_come_first(make: Make) -> None:
    assert make().order == ["plain", "lora", "full"]


def test_only_the_first_seed_on_all_rows_pays_for_the_search(make: Make) -> None:
    budget = make()
    assert budget.cost_of(LORA, 17) == 100
    assert budget.cost_of(SECOND, 17) == 60
    assert budget.cost_of(Cell(technique="lora", seed=17, share=0.5), 17) == 60
    assert budget.cost_of(UNKNOWN, 17) is None


def test_without_a_limit_everything_may_begin(make: Make, clock: Clock) -> None:
    budget = make()
    clock.now += 1e9
    assert budget.why_not(FULL, 17) == budget.why_not(UNKNOWN, 17) == ""


def test_what_does_not_fit_says_what_it_would_take_and_what_is_left(make: Make, clock: Clock) -> None:
    budget = make(400)
    clock.now += 200
    assert budget.why_not(LORA, 17) == ""
    assert budget.why_not(FULL, 17) == "It would take about 5 min, and 3 min of the budget were left."


def test_a_budget_that_is_used_up_ends_even_what_costs_nothing_known(make: Make, clock: Clock) -> None:
    budget = make(60)
    assert budget.why_not(UNKNOWN, 17) == ""
    clock.now += 60
    assert budget.why_not(UNKNOWN, 17) == budget.why_not(FULL, 17) == "The budget of 60 s was used up."


def test_costs_are_corrected_by_what_finished_cells_took(make: Make) -> None:
    budget = make(1000)
    assert budget.factor == 1.0
    budget.finished(LORA, 250, 17)
    budget.finished(SECOND, 70, 17)
    assert budget.factor == 2.0
    assert budget.cost_of(FULL, 17) == 640


def test_a_cell_of_unknown_cost_teaches_nothing(make: Make) -> None:
    budget = make()
    budget.finished(UNKNOWN, 999, 17)
    assert budget.factor == 1.0


def test_time_until_the_end_is_the_sum_of_what_is_left_or_unknown(make: Make, clock: Clock) -> None:
    budget = make()
    assert budget.eta_s([LORA, SECOND], 17) == 160
    assert budget.eta_s([LORA, UNKNOWN], 17) is None
    assert budget.eta_s([], 17) == 0


def test_the_end_comes_no_later_than_the_budget(make: Make, clock: Clock) -> None:
    budget = make(100)
    clock.now += 30
    assert budget.eta_s([FULL, LORA], 17) == 70


def test_seconds_are_counted_by_what_they_were_spent_on(make: Make, clock: Clock) -> None:
    budget = make()
    with budget.spends("train") as spent:
        clock.now += 7
        assert spent() == 7
        clock.now += 1
    clock.now += 100
    assert spent() == 8
    assert budget.spent == {**dict.fromkeys(KINDS, 0.0), "train": 8.0}


def test_seconds_of_what_fails_are_counted_too(make: Make, clock: Clock) -> None:
    budget = make()
    with pytest.raises(ValueError), budget.spends("search"):
        clock.now += 3
        raise ValueError
    assert budget.spent["search"] == 3


def test_overhead_is_all_that_is_none_of_the_work(make: Make, clock: Clock) -> None:
    budget = make()
    for kind in KINDS:
        with budget.spends(kind):
            clock.now += 10
    clock.now += 5
    assert budget.spent_s == 55
    assert budget.overhead_s == 15


def test_a_restart_goes_on_counting_and_leaves_the_pause_out(make: Make, clock: Clock) -> None:
    budget = make(100)
    with budget.spends("train"):
        clock.now += 40
    clock.now += 100_000
    again = make(100)
    assert (again.spent_s, again.spent["train"]) == (40, 40)
    clock.now += 25
    assert again.spent_s == 65
    assert "35 s of the budget were left" in again.why_not(FULL, 17)


def test_what_was_learnt_survives_a_restart(make: Make) -> None:
    """After a restart the plan's costs counted again as they were, and the budget ran out in the midst of a cell."""
    make().finished(LORA, 300, 17)
    assert make().factor == 3.0


@pytest.mark.parametrize("text", ["", "{", "[]x"])
def test_a_damaged_record_begins_anew(make: Make, tmp_path: Path, text: str) -> None:
    (tmp_path / "spent.json").write_text(text, encoding="utf-8")
    assert make().spent_s == 0
