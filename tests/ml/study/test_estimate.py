"""How long a study will take: the order of techniques, what is counted once, what the search adds, what fits."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ml.specs.study import TECHNIQUES, StudySpec, study_spec, why_not_studied
from ml.study.estimate import TechniqueEstimate, estimate, fit_budget
from ml.study.figures import DataFigures, Prompted
from ml.study.speed import Speed
from ml.study.times import Lane, lanes, n_looks
from tests.ml.tiny import SHAPES, tiny_config

SPEED = Speed(flops=1e9, bandwidth=1e9, moved=1e9, calls=1e6)
PLAIN = Prompted(n_tokens=56, n_shared=0)
DATA = DataFigures(
    n_train=640, n_valid=70, n_test=140, mean=60, longest=80, n_targets=4, longest_answer=5, label_tokens=(4,) * 7,
    n_nodes=20, asked={
        "plain": PLAIN, "zero_shot": Prompted(n_tokens=90, n_shared=40),
        "few_shot": Prompted(n_tokens=400, n_shared=350), "few_shot_nearest": Prompted(n_tokens=400, n_shared=40),
        "retrieval": Prompted(n_tokens=900, n_shared=40),
        "chain_of_thought": Prompted(n_tokens=100, n_shared=40, has_steps=True),
        "self_consistency": Prompted(n_tokens=100, n_shared=40, n_samples=5, has_steps=True),
    },
)  # fmt: skip
FREE = replace(DATA, label_tokens=(), n_nodes=0, n_targets=20.0)
DEEP = {"num_hidden_layers": 12}


def spec(task: str = "classification", family: str = "decoder", **changes: Any) -> StudySpec:
    names = [name for name in TECHNIQUES if not why_not_studied(name, task=task, family=family)]
    given = {"base": "b", "dataset": "d@1", "dataset_sha256": "0" * 64, "techniques": names, "collection": "handbook"}
    return study_spec({**given, **changes}, task=task, family=family)


def found(
    data: DataFigures = DATA, *, task: str = "classification", shape: str = "llama",
    sizes: dict[str, int] | None = None, wants_memory: bool = False, calibration: dict[str, float] | None = None,
    **changes: Any,
) -> dict[str, TechniqueEstimate]:  # fmt: skip
    family = SHAPES[shape]
    config = tiny_config(shape, DEEP if sizes is None and shape == "llama" else sizes or {})
    estimates = estimate(
        spec(task, family, **changes), config=config, family=family, device="cpu", data=data, speed=SPEED,
        wants_memory=wants_memory, calibration=calibration,
    )  # fmt: skip
    return {one.technique: one for one in estimates}


def test_the_tries_of_a_search_end_at_its_rungs_and_one_goes_to_the_end() -> None:
    assert lanes(3, 60) == [Lane(end=60, n_stretches=3), Lane(end=15, n_stretches=1), Lane(end=30, n_stretches=2)]
    assert lanes(1, 60) == [Lane(end=60, n_stretches=1)]
    assert sorted(lane.end for lane in lanes(9, 160)) == [10] * 4 + [20] * 2 + [40, 80, 160]


@pytest.mark.parametrize(("n_tries", "end", "n"), [(3, 60, 4), (3, 15, 1), (3, 30, 2), (1, 60, 4), (2, 30, 2)])
def test_a_training_looks_at_every_quarter(n_tries: int, end: int, n: int) -> None:
    assert n_looks(n_tries, 60, end) == n


def test_training_the_whole_model_takes_longer_than_a_change_inside_it_and_that_longer_than_a_few_layers() -> None:
    wide = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 12}
    said = found(techniques=["lora", "last_k", "head", "full"], sizes=wide)
    assert said["full"].train_s > said["lora"].train_s > said["last_k"].train_s > said["head"].train_s


def test_what_is_computed_once_belongs_to_the_search_and_not_to_each_seed() -> None:
    said = found(techniques=["head", "lora"], n_tries=1)
    assert said["head"].search_s > 0
    assert said["lora"].search_s == pytest.approx(0)


def test_the_search_costs_the_steps_of_the_tries_that_are_dropped() -> None:
    """Three tries to a quarter of the steps, two to a half: 15 + 30 of 60 steps more, and a look at each end."""
    slow = Speed(flops=1e6, bandwidth=1e9, moved=1e9, calls=1e9)  # nothing but arithmetic counts
    one, = estimate(spec(techniques=["lora"]), config=tiny_config("llama", {}), family="decoder", device="cpu",
                    data=replace(DATA, n_valid=0), speed=slow, wants_memory=False)  # fmt: skip
    assert one.search_s == pytest.approx(45 / 60 * one.train_s, rel=0.02)


def test_a_technique_that_brings_its_own_steps_keeps_them() -> None:
    few, many = (found(techniques=["head", "lora"], steps=steps) for steps in (10, 100))
    assert few["head"].train_s == many["head"].train_s
    assert many["lora"].train_s > 3 * few["lora"].train_s


def test_beginnings_that_all_rows_share_are_read_once() -> None:
    shared = replace(DATA, n_shared=48, asked={**DATA.asked, "plain": replace(PLAIN, n_shared=48)})
    alone, together = (found(data, techniques=["plain", "lora"]) for data in (DATA, shared))
    assert together["lora"].train_s < 0.7 * alone["lora"].train_s
    assert together["plain"].measure_s < 0.7 * alone["plain"].measure_s


def test_a_head_reads_every_prompt_whole_and_no_label() -> None:
    shared = replace(DATA, asked={**DATA.asked, "plain": replace(PLAIN, n_shared=48)})
    few, many = (found(replace(shared, n_nodes=n), techniques=["head", "lora"]) for n in (3, 30))
    assert few["head"].measure_s == many["head"].measure_s
    assert few["lora"].measure_s < many["lora"].measure_s


def test_of_many_labels_an_untouched_model_reads_more_than_a_trained_one() -> None:
    many = found(replace(DATA, n_nodes=400), techniques=["plain", "prefix_tuning"])
    assert many["plain"].measure_s > 1.5 * many["prefix_tuning"].measure_s
    assert many["plain"].measure_s > 3 * found(techniques=["plain"])["plain"].measure_s


def test_free_answers_are_written_and_steps_are_longer_than_answers() -> None:
    said = found(FREE, task="generation", techniques=["plain", "few_shot", "chain_of_thought", "self_consistency"],
                 max_tokens=100)  # fmt: skip
    assert said["plain"].measure_s > said["few_shot"].measure_s
    assert said["self_consistency"].measure_s > 3 * said["chain_of_thought"].measure_s


def test_a_study_uses_no_more_rows_than_its_spec_allows() -> None:
    few, many = (found(techniques=["zero_shot", "lora"], test_rows=n)["zero_shot"] for n in (14, 140))
    assert many.measure_s == pytest.approx(10 * few.measure_s, rel=0.3)
    assert found(techniques=["lora"], test_rows=9999)["lora"] == found(techniques=["lora"], test_rows=140)["lora"]


def test_seeds_count_where_there_is_chance_and_shares_where_there_is_something_to_learn() -> None:
    said = found(techniques=["plain", "head", "lora"], seeds=[1, 2, 3], shares=[0.1, 0.5], curve_techniques=["head"])
    assert [said[name].n_seeds for name in said] == [1, 3, 3]
    assert set(said["head"].share_s) == {"0.1", "0.5"} and said["lora"].share_s == {}
    assert said["head"].share_s["0.1"] < said["head"].share_s["0.5"]
    lora = said["lora"]
    assert lora.total_s == pytest.approx(lora.search_s + 3 * (lora.train_s + lora.measure_s))
    head = said["head"]
    whole = head.search_s + 3 * (head.train_s + head.measure_s) + sum(head.share_s.values())
    assert head.total_s == pytest.approx(whole)


def test_earlier_studies_correct_their_techniques_and_all_together_the_others() -> None:
    plain, corrected = (found(techniques=["plain", "lora"], calibration=c) for c in (None, {"": 2.0, "lora": 3.0}))
    assert corrected["plain"].measure_s == pytest.approx(2 * plain["plain"].measure_s)
    assert corrected["lora"].total_s == pytest.approx(3 * plain["lora"].total_s)
    assert (corrected["plain"].factor, corrected["lora"].factor, plain["lora"].factor) == (2.0, 3.0, 1.0)


@pytest.mark.parametrize("task", ["classification", "generation"])
@pytest.mark.parametrize("shape", ["llama", "gpt2", "bert", "t5"])
def test_every_technique_of_every_family_has_a_time_and_a_memory(shape: str, task: str) -> None:
    if not [name for name in TECHNIQUES if not why_not_studied(name, task=task, family=SHAPES[shape])]:
        return  # an encoder writes nothing
    said = found(DATA if task == "classification" else FREE, task=task, shape=shape, wants_memory=True)
    assert all(one.measure_s > 0 and one.total_s > 0 for one in said.values())
    assert all(one.train_s > 0 for one in said.values() if TECHNIQUES[one.technique].kind == "trained")
    assert {one.verdict for one in said.values()} == {"fits"}
    assert min(one.peak_bytes for one in said.values()) > 500_000_000  # the libraries alone


def test_what_cannot_be_planned_says_why_and_the_others_are_planned() -> None:
    said = found(techniques=["lora", "last_k"], shape="llama", sizes={"num_hidden_layers": 1}, wants_memory=True)
    assert said["lora"].problem == "" and said["lora"].total_s > 0
    assert said["last_k"].problem == "It cannot be planned: planned has 1 layers, 2 cannot be trained."
    assert said["last_k"].cost is None


def test_an_estimate_that_is_late_ends_after_a_technique() -> None:
    some = estimate(spec(), config=tiny_config("llama", {}), family="decoder", device="cpu", data=DATA, speed=SPEED,
                    wants_memory=False, is_late=lambda: True)  # fmt: skip
    assert [one.technique for one in some] == ["plain"]


def test_an_estimate_is_plain_json() -> None:
    said = found(techniques=["head"], shares=[0.1])["head"].as_dict()
    assert json.loads(json.dumps(said)) == said
    assert set(said) == {"technique", "search_s", "train_s", "measure_s", "n_seeds", "share_s", "factor", "peak_bytes",
                         "verdict", "problem", "total_s"}  # fmt: skip


def priced(**seconds: float) -> list[TechniqueEstimate]:
    return [TechniqueEstimate(technique=name, search_s=s, train_s=0, measure_s=0, n_seeds=1, share_s={})
            for name, s in seconds.items()]  # fmt: skip


def test_the_cheapest_come_first_and_what_does_not_fit_says_what_it_needs_and_what_is_left() -> None:
    chosen, left_out = fit_budget(priced(full=600, plain=10, lora=300), 400)
    assert chosen == ["plain", "lora"]
    assert left_out["full"] == "It needs about 10 min, and 2 min of the budget are left."


def test_no_budget_is_no_limit() -> None:
    assert fit_budget(priced(full=6e9, plain=10), 0) == (["plain", "full"], {})


def test_a_budget_too_small_for_anything_leaves_everything_out() -> None:
    chosen, left_out = fit_budget(priced(full=600, plain=10), 5)
    assert chosen == []
    assert left_out["plain"] == "It needs about 10 s, and 5 s of the budget are left."
