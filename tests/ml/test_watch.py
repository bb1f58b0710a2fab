"""What a run concludes from its own figures."""

from __future__ import annotations

import random

import pytest

from ml.errors import DivergedError
from ml.watch import Watch, slope_t
from tests.ml.running import tiny_spec


def fed(losses: list[float], **changes: object) -> tuple[Watch, object]:
    watch, spec = Watch(), tiny_spec(flat_steps=len(losses), **changes)
    for loss in losses:
        watch.see_loss(spec, loss)
    return watch, spec


def noisy(n: int, start: float, end: float, *, noise: float = 0.1) -> list[float]:
    draw = random.Random(5)
    return [start + (end - start) * i / n + draw.gauss(0, noise) for i in range(n)]


def test_a_loss_that_never_falls_stops_the_run_with_an_explanation() -> None:
    watch, spec = fed(noisy(100, 2.0, 2.0))
    with pytest.raises(DivergedError, match=r"after 100 steps it is still 2\.0") as caught:
        watch.check_flat(spec, None)  # type: ignore[arg-type]
    assert "Raise the learning rate" in caught.value.hint


def test_a_noisy_loss_that_falls_goes_on() -> None:
    watch, spec = fed(noisy(100, 2.0, 1.8))
    watch.check_flat(spec, None)  # type: ignore[arg-type]


def test_a_flat_training_loss_is_forgiven_when_the_validation_rows_got_better() -> None:
    watch, spec = fed(noisy(100, 2.0, 2.0))
    watch.see_metrics(100, {"loss": 1.5, "perplexity": 4.5})
    watch.check_flat(spec, 2.0)  # type: ignore[arg-type]


def test_a_loss_near_zero_from_the_start_is_no_failure() -> None:
    watch, spec = fed([0.001] * 50)
    watch.check_flat(spec, None)  # type: ignore[arg-type]


def test_the_check_waits_for_its_steps_and_is_made_once() -> None:
    spec, watch = tiny_spec(flat_steps=100), Watch()
    for _ in range(99):
        watch.see_loss(spec, 2.0)
    watch.check_flat(spec, None)
    assert not watch.is_flat_checked
    watch.see_loss(spec, 2.0)
    with pytest.raises(DivergedError):
        watch.check_flat(spec, None)
    watch.check_flat(spec, None)


def test_zero_steps_switch_the_check_off() -> None:
    watch, spec = Watch(), tiny_spec(flat_steps=0)
    for _ in range(2000):
        watch.see_loss(spec, 2.0)
    watch.check_flat(spec, None)
    assert watch.losses == []


def test_patience_counts_the_looks_since_the_best_one() -> None:
    watch, spec = Watch(), tiny_spec(patience=2)
    assert watch.see_metrics(10, {"accuracy": 0.5, "loss": 1.0})
    assert not watch.see_metrics(20, {"accuracy": 0.4, "loss": 0.9})
    assert not watch.has_lost_patience(spec)
    assert not watch.see_metrics(30, {"accuracy": 0.5, "loss": 1.1})
    assert watch.has_lost_patience(spec)
    assert watch.best == {"step": 10, "metric": "accuracy", "value": 0.5}


def test_an_equal_accuracy_with_a_lower_loss_is_better() -> None:
    watch = Watch()
    watch.see_metrics(10, {"accuracy": 0.5, "loss": 1.0})
    assert watch.see_metrics(20, {"accuracy": 0.5, "loss": 0.9})
    assert watch.best_step == 20


def test_the_slope_statistic_is_that_of_scipy() -> None:
    from scipy.stats import linregress

    values = noisy(40, 2.0, 1.5)
    found = linregress(range(40), values)
    assert slope_t(values) == pytest.approx(found.slope / found.stderr)
    assert slope_t([1.0, 1.0]) == 0.0
    assert slope_t([3.0, 2.0, 1.0]) == float("-inf")
