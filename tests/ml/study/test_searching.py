"""Successive halving with trainings that only pretend: what is decided, what fails, and what an interruption keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ml.errors import ColdframeError, DivergedError, OutOfMemoryError
from ml.specs import train_spec
from ml.study.halving import learning_rates
from ml.study.searching import Search, Try
from ml.study.training import Interrupted, Lane, Look
from tests.ml.study.studying import NAMES

RATES = learning_rates(1e-3, 3)
LOW, MIDDLE, HIGH = RATES


class Pretended:
    """Lanes whose validation figures are known beforehand; `advance` may be told to fail or to stop."""

    def __init__(self, folder: Path, worth: Callable[[float, int], Mapping[str, float]], n_tries: int = 3) -> None:
        self.memory = folder / "cell" / "tries.json"
        self.worth, self.rates = worth, learning_rates(1e-3, n_tries)
        self.went: list[tuple[float, int]] = []
        self.forgotten: list[float] = []
        self.fails: dict[tuple[float, int], BaseException] = {}

    def search(self) -> Search:
        """As a process that has just started has it."""
        specs = [train_spec({"method": "lora", **NAMES, "learning_rate": rate}) for rate in self.rates]
        lanes = [Lane(spec=spec, folder=self.memory.parent / str(place)) for place, spec in enumerate(specs)]
        return Search(lanes, self.memory, forget=lambda lane: self.forgotten.append(lane.spec.learning_rate))

    def advance(self, lane: Lane, to: int, text: str) -> None:
        rate = lane.spec.learning_rate
        self.went.append((rate, to))
        if (rate, to) in self.fails:
            raise self.fails[rate, to]
        lane.seconds += 1
        lane.looks = [Look(step=step, metrics=dict(self.worth(rate, step))) for step in range(1, to + 1)]

    def run(self, steps: int = 8) -> Try:
        return self.search().run(steps, self.advance)


def nearer(rate: float, step: int) -> dict[str, float]:
    """The middle rate is right most often."""
    return {"accuracy": 0.9 if rate == MIDDLE else 0.5, "loss": 1.0 / step}


@pytest.fixture
def pretended(tmp_path: Path) -> Pretended:
    return Pretended(tmp_path, nearer)


def states(search: list[Mapping[str, Any]]) -> list[str]:
    return [str(one["state"]) for one in search]


def remembered(pretended: Pretended) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(pretended.memory.read_text(encoding="utf-8"))
    return found


def test_all_go_to_the_first_rung_and_the_better_half_to_the_next(pretended: Pretended) -> None:
    won = pretended.run()
    assert won.lane.spec.learning_rate == MIDDLE
    assert pretended.went == [(LOW, 2), (MIDDLE, 2), (HIGH, 2), (LOW, 4), (MIDDLE, 4)]
    assert pretended.forgotten == [HIGH, LOW]
    assert states(remembered(pretended)) == ["dropped", "kept", "dropped"]


def test_a_try_tells_where_it_stood_at_each_rung(pretended: Pretended) -> None:
    won = pretended.run()
    looks = [{"step": 2, "value": 0.9, "loss": 0.5}, {"step": 4, "value": 0.9, "loss": 0.25}]
    assert won.as_dict() == {"learning_rate": MIDDLE, "rungs": looks, "state": "kept", "seconds": 2.0}


def test_with_one_try_nothing_is_run(tmp_path: Path) -> None:
    pretended = Pretended(tmp_path, nearer, n_tries=1)
    assert pretended.run().lane.spec.learning_rate == MIDDLE
    assert pretended.went == []
    assert not pretended.memory.exists()


def test_equal_accuracy_is_decided_by_the_loss(tmp_path: Path) -> None:
    pretended = Pretended(tmp_path, lambda rate, step: {"accuracy": 0.5, "loss": 0.1 if rate == HIGH else 0.2})
    assert pretended.run().lane.spec.learning_rate == HIGH


def test_free_answers_are_decided_by_the_loss_alone(tmp_path: Path) -> None:
    pretended = Pretended(tmp_path, lambda rate, step: {"loss": rate, "perplexity": 1.0})
    won = pretended.run()
    assert won.lane.spec.learning_rate == LOW
    assert won.rungs[0]["value"] is None


def test_a_loss_that_is_no_number_is_the_worst(tmp_path: Path) -> None:
    pretended = Pretended(tmp_path, lambda rate, step: {"loss": float("nan") if rate == LOW else rate})
    assert pretended.run().lane.spec.learning_rate == MIDDLE


def test_equals_keep_the_lower_rate(tmp_path: Path) -> None:
    assert Pretended(tmp_path, lambda rate, step: {"loss": 1.0}).run().lane.spec.learning_rate == LOW


def test_a_short_training_still_keeps_the_best_of_all(tmp_path: Path) -> None:
    """Nine tries and two rungs left three over, and the lowest rate was taken whatever it was worth."""
    pretended = Pretended(tmp_path, lambda rate, step: {"accuracy": 0.5, "loss": 1 / rate}, n_tries=9)
    assert pretended.run(steps=4).lane.spec.learning_rate == max(pretended.rates)
    assert states(remembered(pretended)).count("kept") == 1


def test_one_step_is_enough_to_compare(tmp_path: Path) -> None:
    pretended = Pretended(tmp_path, nearer)
    assert pretended.run(steps=1).lane.spec.learning_rate == MIDDLE
    assert [to for _, to in pretended.went] == [1, 1, 1]


def test_a_try_that_fails_is_out_and_says_why(pretended: Pretended) -> None:
    pretended.fails[MIDDLE, 2] = DivergedError("The loss is nan.", hint="Lower it.")
    assert pretended.run().lane.spec.learning_rate == LOW
    kept = remembered(pretended)
    assert states(kept) == ["kept", "failed", "dropped"]
    assert kept[1]["error"]["message"] == "The loss is nan."
    assert "error" not in kept[0]
    assert MIDDLE in pretended.forgotten


def test_what_is_left_over_after_failures_goes_to_the_end(pretended: Pretended) -> None:
    pretended.fails = {(rate, 2): DivergedError("nan") for rate in (LOW, MIDDLE)}
    assert pretended.run().lane.spec.learning_rate == HIGH
    assert pretended.went[-1] == (HIGH, 4)


def test_a_failure_that_nobody_foresaw_is_kept_too(pretended: Pretended) -> None:
    pretended.fails[LOW, 2] = ZeroDivisionError("division by zero")
    pretended.run()
    error = remembered(pretended)[0]["error"]
    assert (error["code"], error["message"]) == ("unexpected", "ZeroDivisionError: division by zero")


def test_when_all_fail_the_last_ones_reason_is_the_reason(pretended: Pretended) -> None:
    pretended.fails = {(rate, 2): DivergedError(f"nan at {rate:g}") for rate in RATES}
    with pytest.raises(DivergedError, match=f"nan at {HIGH:g}"):
        pretended.run()
    assert states(remembered(pretended)) == ["failed"] * 3


def test_a_failed_search_fails_again_in_the_same_way_after_an_interruption(pretended: Pretended) -> None:
    pretended.fails = {(rate, 2): OutOfMemoryError(f"no room at {rate:g}", hint="Less.", field="f") for rate in RATES}
    with pytest.raises(ColdframeError) as first:
        pretended.run()
    n_went = len(pretended.went)
    with pytest.raises(ColdframeError) as again:
        pretended.run()
    assert len(pretended.went) == n_went
    assert again.value.as_dict() == first.value.as_dict()


def interrupted_at(pretended: Pretended, where: tuple[float, int]) -> None:
    pretended.fails[where] = Interrupted()
    with pytest.raises(Interrupted):
        pretended.run()
    del pretended.fails[where]
    pretended.went.clear()


def test_interrupted_in_a_rung_it_goes_on_with_those_that_have_not_reached_it(
    pretended: Pretended, tmp_path: Path
) -> None:
    """Those that had were sent again, and their rung stood twice in the report."""
    calm = Pretended(tmp_path / "calm", nearer)
    calm.run()
    interrupted_at(pretended, (HIGH, 2))
    pretended.run()
    assert pretended.went == [(HIGH, 2), (LOW, 4), (MIDDLE, 4)]
    assert remembered(pretended) == remembered(calm)


def test_a_rung_that_was_decided_is_not_run_again(pretended: Pretended) -> None:
    interrupted_at(pretended, (LOW, 4))
    assert pretended.run().lane.spec.learning_rate == MIDDLE
    assert pretended.went == [(LOW, 4), (MIDDLE, 4)]


def test_a_search_that_is_over_is_only_read(pretended: Pretended) -> None:
    pretended.run()
    pretended.went.clear()
    won = pretended.run()
    assert (won.lane.spec.learning_rate, won.lane.seconds) == (MIDDLE, 2.0)
    assert pretended.went == []


def test_killed_without_a_word_it_sends_the_rung_again(pretended: Pretended, tmp_path: Path) -> None:
    """SIGKILL leaves the memory of the last decision; trainings go on from their checkpoints."""
    calm = Pretended(tmp_path / "calm", nearer)
    calm.run()
    pretended.fails[MIDDLE, 4] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        pretended.run()
    pretended.fails.clear()
    pretended.run()
    assert pretended.went[-2:] == [(LOW, 4), (MIDDLE, 4)]
    assert [one["rungs"] for one in remembered(pretended)] == [one["rungs"] for one in remembered(calm)]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', "[{}]"])
def test_a_damaged_memory_begins_anew(pretended: Pretended, text: str) -> None:
    pretended.memory.parent.mkdir(parents=True)
    pretended.memory.write_text(text, encoding="utf-8")
    assert pretended.run().lane.spec.learning_rate == MIDDLE
    assert len(pretended.went) == 5
