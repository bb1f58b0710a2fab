"""The leaderboard: who is where, who is tied, who to take, of whole studies and of what there is so far."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml.specs.study import TECHNIQUES, study_spec
from ml.study.board import board
from ml.study.cells import cells_of
from ml.study.draws import N_DRAWS
from tests.ml.study.fake import ABILITY, fake_study, read_study

CONTRACT = {
    "metric", "metric_label", "n_rows", "seeds", "complete", "n_cells", "entries", "failed", "left_out", "pairs",
    "take", "best", "best_untrained", "guess", "curves", "sizes", "tries", "findings",
}  # fmt: skip
OF_ENTRY = {
    "technique", "label", "glyph", "kind", "place", "group", "is_take", "is_tied", "value", "interval", "per_seed",
    "spread", "n_seeds_done", "n_seeds", "tokens_in", "tokens_prefix", "tokens_out", "n_trainable", "artifact_bytes",
    "train_s", "search_s", "peak_bytes", "latency_p50_ms", "latency_p95_ms", "learning_rate", "best_key", "artifact",
    "front",
}  # fmt: skip
OF_PAIR = {"a", "b", "difference", "low", "high", "p", "p_adjusted", "is_certain", "only_a", "only_b", "rows_needed"}
FEW = ("plain", "few_shot", "lora", "prompt_tuning")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, fake_study(folder, seeds=(17, 18, 19), shares=(0.1, 0.3), n_rows=120, reports=False)


def by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["technique"]: entry for entry in found["entries"]}


def strict(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def test_a_board_has_what_the_pages_read(whole: tuple[Path, dict[str, Any]]) -> None:
    found = whole[1]
    assert set(found) >= CONTRACT
    assert all(set(entry) >= OF_ENTRY for entry in found["entries"])
    assert all(set(pair) >= OF_PAIR for pair in found["pairs"])
    assert len(found["pairs"]) == math.comb(len(found["entries"]), 2)
    assert strict(found)


def test_entries_stand_best_first_in_groups_whose_best_is_below_the_one_before(
    whole: tuple[Path, dict[str, Any]],
) -> None:
    found = whole[1]
    entries, certain = found["entries"], {(p["a"], p["b"]) for p in found["pairs"] if p["is_certain"]}
    assert [entry["value"] for entry in entries] == sorted((entry["value"] for entry in entries), reverse=True)
    assert [entry["place"] for entry in entries] == list(range(1, len(entries) + 1))
    heads = [next(entry for entry in entries if entry["group"] == group)["technique"]
             for group in sorted({entry["group"] for entry in entries})]  # fmt: skip
    assert len(heads) > 1
    assert all((a, b) in certain for a, b in pairwise(heads))
    for entry in entries:
        head = heads[entry["group"] - 1]
        assert (head, entry["technique"]) not in certain or entry["technique"] == head or entry["group"] > 1


def test_a_technique_is_worth_the_mean_of_its_seeds(whole: tuple[Path, dict[str, Any]]) -> None:
    lora = by_name(whole[1])["lora"]
    values = [seed["value"] for seed in lora["per_seed"]]
    assert lora["value"] == pytest.approx(sum(values) / 3)
    assert lora["spread"] == pytest.approx(max(values) - min(values))
    assert (lora["n_seeds_done"], lora["n_seeds"]) == (3, 3)
    assert [seed["seed"] for seed in lora["per_seed"]] == [17, 18, 19]


def test_a_technique_without_chance_is_measured_once(whole: tuple[Path, dict[str, Any]]) -> None:
    plain = by_name(whole[1])["plain"]
    assert (plain["n_seeds"], plain["spread"], plain["spread_p"]) == (1, None, None)


def test_the_cell_with_the_best_validation_rows_stands_for_the_technique(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, found = whole
    for entry in found["entries"]:
        if entry["kind"] == "trained":
            assert entry["artifact"] == f"artifacts/{entry['best_key']}"
            assert (folder / entry["artifact"]).is_dir()
        else:
            assert entry["best_key"].endswith("-s17")


def test_the_same_cells_in_any_order_give_the_same_board(whole: tuple[Path, dict[str, Any]]) -> None:
    spec, about, cells, rows = read_study(whole[0])
    turned = {key: found[::-1] for key, found in reversed(rows.items())}
    assert board(spec, about, cells[::-1], turned) == whole[1]


def test_a_technique_that_is_added_leaves_the_others_figures_alone(tmp_path: Path) -> None:
    few = by_name(fake_study(tmp_path / "few", techniques=FEW, seeds=(1, 2), n_rows=60, reports=False))
    more = by_name(fake_study(tmp_path / "more", techniques=(*FEW, "ia3"), seeds=(1, 2), n_rows=60, reports=False))
    for name in FEW:
        assert (few[name]["value"], few[name]["interval"]) == (more[name]["value"], more[name]["interval"])


def test_the_front_holds_what_nothing_is_both_better_and_cheaper_than(whole: tuple[Path, dict[str, Any]]) -> None:
    entries = whole[1]["entries"]
    known = [entry for entry in entries if entry["latency_p50_ms"] is not None]
    for entry in known:
        beaten = any(
            other["value"] >= entry["value"] and other["latency_p50_ms"] <= entry["latency_p50_ms"]
            and (other["value"], other["latency_p50_ms"]) != (entry["value"], entry["latency_p50_ms"])
            for other in known
        )  # fmt: skip
        assert entry["front"]["latency"] is not beaten


def test_quality_by_rows_is_compared_with_the_best_that_is_only_asked(whole: tuple[Path, dict[str, Any]]) -> None:
    found = whole[1]
    points = found["sizes"]["lora"]
    assert [point["share"] for point in points] == [0.1, 0.3, 1.0]
    assert points[-1]["value"] == by_name(found)["lora"]["per_seed"][0]["value"]
    asked = by_name(found)[found["best_untrained"]]["value"]
    assert points[0]["over_asked"]["difference"] == pytest.approx(points[0]["value"] - asked)
    assert points[0]["over_before"] is None
    assert "few_shot" not in found["sizes"]


def test_guessing_the_most_common_training_label_is_the_floor(whole: tuple[Path, dict[str, Any]]) -> None:
    spec, about, cells, rows = read_study(whole[0])
    assert whole[1]["guess"] == pytest.approx(about["most_common"]["share"])
    f1 = board(replace(spec, metric="macro_f1"), about, cells, rows)["guess"]
    assert f1 < whole[1]["guess"]


def test_free_answers_have_no_guess(tmp_path: Path) -> None:
    found = fake_study(tmp_path, task="generation", metric="chrf", techniques=FEW, n_rows=40, reports=False)
    assert found["guess"] is None
    assert found["curves"]["lora"][0]["value"] is None
    assert found["best"] == "lora"


def test_of_tied_techniques_the_cheapest_to_serve_is_taken(tmp_path: Path) -> None:
    """The one on a model of its own is ahead by a hair; the soft prompt is the smallest file."""
    same = {"full": 0.92, "lora": 0.91, "prompt_tuning": 0.9}
    found = fake_study(tmp_path, techniques=list(same), ability=same, n_rows=60, wobble=0, reports=False)
    assert {entry["group"] for entry in found["entries"]} == {1}
    assert found["take"] == "prompt_tuning"
    assert [entry["is_tied"] for entry in found["entries"]] == [False, True, True]
    assert [entry["technique"] for entry in found["entries"] if entry["is_take"]] == ["prompt_tuning"]


def test_a_model_of_its_own_is_dearer_than_any_file_on_the_shared_one(tmp_path: Path) -> None:
    same = {"output_layers": 0.9, "lora": 0.9}
    found = fake_study(tmp_path, techniques=list(same), ability=same, n_rows=40, reports=False)
    assert found["take"] == "lora"


def test_equal_values_are_ranked_by_what_they_cost(tmp_path: Path) -> None:
    perfect = dict.fromkeys(("lora", "full", "head"), 1.0)
    found = fake_study(tmp_path, techniques=list(perfect), ability=perfect, n_rows=30, wobble=0, reports=False)
    assert [entry["technique"] for entry in found["entries"]] == ["head", "lora", "full"]
    assert all(entry["value"] == 1 and entry["interval"][1] == 1 > entry["interval"][0] for entry in found["entries"])
    assert found["take"] == "head"


def test_when_all_are_wrong_there_is_still_a_board(tmp_path: Path) -> None:
    nothing = dict.fromkeys(FEW, 0.0)
    found = fake_study(tmp_path, techniques=FEW, ability=nothing, seeds=(1, 2), n_rows=30, reports=False)
    assert all(entry["interval"][0] == 0 for entry in found["entries"])
    assert strict(found)


@pytest.mark.parametrize("n_rows", [2, 3])
def test_two_rows_are_enough_for_a_board_and_for_nothing_else(tmp_path: Path, n_rows: int) -> None:
    found = fake_study(tmp_path, techniques=FEW, seeds=(1, 2), n_rows=n_rows, reports=False)
    assert {entry["group"] for entry in found["entries"]} == {1}
    assert not any(pair["is_certain"] for pair in found["pairs"])


def test_one_technique_alone_has_no_pairs(tmp_path: Path) -> None:
    found = fake_study(tmp_path, techniques=("lora",), n_rows=20, reports=False)
    assert (found["best"], found["take"], found["pairs"], found["best_untrained"]) == ("lora", "lora", [], None)


GIVEN = {"base": "b", "dataset": "d", "dataset_sha256": "e", "techniques": FEW, "seeds": (1, 2), "shares": (0.3,)}
CELLS = [cell.key for cell in cells_of(study_spec(GIVEN, task="classification"))]
STATES = st.lists(st.sampled_from(["done", "failed", "left_out", "waiting"]), min_size=len(CELLS), max_size=len(CELLS))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(states=STATES)
def test_a_half_filled_study_has_a_board_of_what_is_there(
    states: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    at = {state: [key for key, one in zip(CELLS, states, strict=True) if one == state] for state in set(states)}
    found = fake_study(
        tmp_path_factory.mktemp("half"), techniques=FEW, seeds=(1, 2), shares=(0.3,), n_rows=24,
        failed=at.get("failed", ()), left_out=at.get("left_out", ()), waiting=at.get("waiting", ()), chance=len(at),
    )  # fmt: skip
    assert {**found["n_cells"]} == {
        **{state: states.count(state) for state in ("done", "failed", "left_out", "waiting")}, "total": len(CELLS),
    }  # fmt: skip
    assert found["complete"] is ("waiting" not in states)
    assert len(found["failed"]) == states.count("failed")
    assert len(found["left_out"]) == states.count("left_out")
    done = {key.rpartition("-s")[0] for key in at.get("done", ()) if not key.endswith("-0.3")}
    assert set(by_name(found)) == done
    assert (found["best"] is None) is (not done)
    assert found["findings"]
    assert strict(found)


def test_a_cell_that_is_done_without_rows_is_waited_for(whole: tuple[Path, dict[str, Any]]) -> None:
    spec, about, cells, rows = read_study(whole[0])
    del rows["lora-s18"]
    found = board(spec, about, cells, rows)
    assert found["n_cells"]["waiting"] == 1
    assert not found["complete"]
    assert [seed["state"] for seed in by_name(found)["lora"]["per_seed"]] == ["done", "waiting", "done"]


def test_cells_that_the_spec_does_not_name_are_left_out(whole: tuple[Path, dict[str, Any]]) -> None:
    spec, about, cells, rows = read_study(whole[0])
    found = board(replace(spec, techniques=("plain", "lora"), shares=()), about, cells, rows)
    assert set(by_name(found)) == {"plain", "lora"}
    assert found["n_cells"]["total"] == 4


def test_figures_that_are_no_numbers_count_as_unknown(whole: tuple[Path, dict[str, Any]]) -> None:
    spec, about, cells, rows = read_study(whole[0])
    for cell in cells:
        cell |= {"latency_p50_ms": math.nan, "peak_bytes": math.inf, "train_s": None, "valid_value": "high",
                 "artifact_bytes": True}  # fmt: skip
        for one in cell.get("tries", ()):
            one["rungs"] = [{"step": 5, "value": math.nan, "loss": math.inf}]
        cell["curve"] = [{"step": 5, "value": math.nan, "loss": math.inf}]
    found = board(spec, about, cells, rows)
    assert strict(found)
    lora = by_name(found)["lora"]
    assert (lora["latency_p50_ms"], lora["peak_bytes"], lora["train_s"], lora["artifact_bytes"]) == (None,) * 4
    assert not any(entry["front"]["latency"] for entry in found["entries"])
    assert found["take"]


def test_enough_is_drawn_for_the_strictest_correction() -> None:
    """The smallest p value that the draws can show, times all pairs of all techniques, is below the level."""
    assert 2 / (N_DRAWS + 1) * math.comb(len(TECHNIQUES), 2) < 0.05
    assert set(ABILITY) == set(TECHNIQUES)
