"""How long a study will take: the order of techniques, what is counted once, what fits a budget."""

from __future__ import annotations

from typing import Any

import pytest

from ml.specs.study import StudySpec, study_spec
from ml.study.budget import Cost
from ml.study.estimate import Rows, Shape, Speed, chosen_within, costs_of, shape_of, speed_of, total_s
from tests.ml.tiny import tiny_config

SHAPE = Shape(body=100_000_000, head=28_000_000, n_layers=30, width=576, n_bytes=540_000_000)
SPEED = Speed(flops=1e11, bandwidth=1e10)
ROWS = Rows(n_tokens=90, n_targets=4, label_tokens=28, n_train=640, n_valid=70, n_test=140)


def spec(**changes: Any) -> StudySpec:
    given = {"base": "b", "dataset": "d@1", "dataset_sha256": "0" * 64, "techniques": ["plain", "head", "lora", "full"],
             "train_rows": 640, "valid_rows": 70, "test_rows": 140}  # fmt: skip
    return study_spec({**given, **changes}, task="classification")


def seconds(rows: Rows = ROWS, **changes: Any) -> dict[str, Cost]:
    return costs_of(spec(**changes), shape=SHAPE, speed=SPEED, rows=rows)


def test_the_weights_are_counted_from_the_shape_without_the_embeddings() -> None:
    config = tiny_config("llama", {})
    shape = shape_of(config, family="decoder")
    assert (shape.n_layers, shape.width, shape.head) == (2, 32, 384 * 32)
    assert shape.n_bytes == 4 * (shape.body + shape.head)


def test_training_the_whole_model_takes_longer_than_a_small_change_inside_it() -> None:
    found = seconds()
    assert found["full"].train_s > found["lora"].train_s > found["head"].train_s


def test_features_that_are_computed_once_belong_to_the_search_and_not_to_each_seed() -> None:
    found = seconds()
    assert found["head"].search_s > 10 * found["head"].train_s


def test_more_tries_cost_more_search_and_the_same_training() -> None:
    few, many = seconds(n_tries=2), seconds(n_tries=6)
    assert many["lora"].search_s > few["lora"].search_s
    assert seconds(n_tries=1)["lora"].search_s == 0


def test_what_all_rows_begin_with_is_read_once() -> None:
    shared = Rows(n_tokens=90, n_shared=67, n_targets=4, label_tokens=28, n_train=640, n_valid=70, n_test=140)
    assert seconds(shared)["lora"].train_s < seconds()["lora"].train_s / 2


def test_a_study_uses_no_more_rows_than_its_spec_allows() -> None:
    assert seconds(test_rows=14)["plain"].measure_s == pytest.approx(seconds()["plain"].measure_s / 10, rel=0.05)


@pytest.mark.parametrize("task", ["classification", "generation"])
def test_every_technique_has_a_cost_that_is_a_positive_number(task: str) -> None:
    from ml.specs.study import TECHNIQUES, why_not_studied

    names = [name for name in TECHNIQUES if not why_not_studied(name, task=task, family="decoder")]
    given = study_spec({"base": "b", "dataset": "d", "dataset_sha256": "0", "techniques": names}, task=task)
    rows = ROWS if task == "classification" else Rows(n_tokens=90, n_targets=30, n_train=9, n_valid=9, n_test=9)
    found = costs_of(given, shape=SHAPE, speed=SPEED, rows=rows)
    assert list(found) == names
    assert all(cost.measure_s > 0 and cost.train_s >= 0 and cost.search_s >= 0 for cost in found.values())


def test_seeds_and_shares_count_where_there_is_chance_and_something_to_learn() -> None:
    cost = Cost(search_s=10, train_s=5, measure_s=1)
    asked = spec(seeds=[1, 2, 3], shares=[0.1], curve_techniques=["lora"])
    assert total_s(asked, "plain", cost) == 16
    assert total_s(asked, "lora", cost) == 10 + 4 * 6
    assert total_s(asked, "full", cost) == 10 + 3 * 6


def test_the_cheapest_fit_first_and_what_does_not_is_named_with_its_need() -> None:
    costs = {name: Cost(search_s=0, train_s=s, measure_s=0) for name, s in (("full", 60), ("plain", 1), ("lora", 30))}
    assert chosen_within(spec(), costs, 40) == (["plain", "lora"], {"full": 60})
    assert chosen_within(spec(), costs, 0)[1] == {}


def test_the_machine_is_probed() -> None:
    speed = speed_of("cpu", 64)
    assert speed.flops > 1e6
    assert speed.bandwidth > 1e6
