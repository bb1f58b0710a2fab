"""The engine's bench on a tiny model: what it makes is served, and what it prints is complete. Times are made up."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from bench import engine_batches as batches
from bench import engine_rivals as rivals
from bench import engine_roofline as roofline
from bench.engine import ratios
from bench.engine_figures import GOALS, SMALLER_IS_BETTER, limits, table
from ml.backbone import load_backbone
from ml.engine.engine import Engine
from tests.ml.tiny import save_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", "llama")


@pytest.fixture(scope="module")
def served(folder, tmp_path_factory) -> tuple[Engine, batches.Adapters, list[str]]:
    artifacts, backbone = tmp_path_factory.mktemp("artifacts"), load_backbone(folder)
    adapters = batches.make_adapters(artifacts, backbone, batches.lora_model(load_backbone(folder).model))
    soft = batches.make_soft_prompts(artifacts, backbone, artifacts / adapters.prefixes[0], 12)
    engine = Engine(backbone, artifact_folder=lambda sha: artifacts / sha, n_slots=16, length=256)
    engine.stop_ids.clear()
    return engine, adapters, soft


def ticks():
    return count().__next__


@pytest.mark.parametrize("kind", ["plain", "mixed_prefix", "lora16", "mixed_all"])
def test_every_kind_of_batch_decodes_with_all_its_rows(kind, served):
    engine, adapters, _ = served
    assert len(set(adapters.loras)) == 16 and len(set(adapters.prefixes)) == 10
    assert batches.decode_speed(engine, adapters.tasks(kind, 16), [5, 6, 7], 3, ticks()) == 16 * 3
    assert engine.is_idle


def test_sixteen_tasks_are_served_to_their_ends(served):
    engine, adapters, _ = served
    assert batches.serve_seconds(engine, adapters.tasks("lora16", 16), [5, 6, 7], 4, ticks()) == 1
    assert engine.is_idle


def test_a_few_shot_block_is_kept_for_its_own_flow_only(served):
    engine, _, _ = served
    hits = engine.prefixes.beginnings.n_hits
    pairs = batches.cached_first_tokens(engine, 300, 3, ticks(), shots=60, question=8)
    assert len(pairs) == 3 and engine.prefixes.beginnings.n_hits == hits + 3


def test_soft_prompts_are_touched_in_turn_with_a_hot_one(served):
    engine, _, soft = served
    before = engine.prefixes.store.n_computed
    touched, hot = batches.many_first_tokens(engine, soft, 300, 10, 20, ticks())
    assert len(touched) == len(hot) == 10 and len(set(soft)) == 12
    assert 1 < engine.prefixes.store.n_computed - before <= 11


def test_the_rivals_decode_every_row(folder):
    model = batches.lora_model(load_backbone(folder).model)
    names = [f"lora{row}" for row in range(3)]
    assert rivals.generate_speed(model, [5, 6, 7], 3, 4, ticks(), adapters=names) == 3 * 4 / 4
    assert rivals.sequential_seconds(model, [5, 6, 7], 16, 4, ticks(), [2, 3]) == 8
    assert rivals.continuous_speed(load_backbone(folder).model, [5, 6, 7], 3, 4) > 0


def test_limits_are_below_one_where_a_task_adds_work(served):
    engine, _, _ = served
    found = limits(engine, 16, 40)
    for name in ("mixed_prefix_ratio", "lora16_ratio", "mixed_all_ratio"):
        assert all(0 < value < 1 for value in found[name])


def test_ratios_are_medians_within_repetitions():
    names = ("plain", "mixed_prefix", "lora16", "mixed_all", "sampled", "generate", "continuous", "peft_mixed",
             "sequential_s", "batch_s")  # fmt: skip
    found = {name: [1.0, 2.0, 30.0] for name in names} | {"lora16": [0.5, 1.8, 3.0]}
    assert ratios(found)["lora16_ratio"] == 0.5 and ratios(found)["vs_generate"] == 1.0
    assert "vs_llamacpp_16" not in ratios(found)
    theirs = {"one": [1.0, 3.0, 2.0], "llamacpp_1": [2.0, 4.0, 2.0], "llamacpp_16": [1.0, 0.5, 10.0]}
    assert ratios(found | theirs)["vs_llamacpp_1"] == 0.75 and ratios(found | theirs)["vs_llamacpp_16"] == 3.0


def test_the_table_says_what_is_absent_and_shows_every_goal():
    figures = dict.fromkeys(GOALS, 1.0) | {"vs_llamacpp_1": "absent"}
    text = table(figures, {"lora16_ratio": (0.5, 0.75)})
    assert "absent" in text and "0.500, 0.750" in text
    assert all(name in text for name in GOALS) and all(name in GOALS for name in SMALLER_IS_BETTER)


def test_the_roofline_of_a_shape_is_measured_for_every_batch(monkeypatch, capsys):
    def timed(device, function, n):
        function()
        return 0.5

    monkeypatch.setattr(roofline, "_timed", timed)
    found = roofline.measure("tiny", "cpu", 1)
    assert tuple(found["steps"]) == roofline.BATCHES == (1, 2, 4, 8, 16, 32, 64)
    read = [step["gb"] for step in found["steps"].values()]
    assert read == sorted(read) and read[0] < read[-1]
    assert found["lora16_ratio"] == 1 and 0.3 < found["lora16_limit"] < 1 and found["graphs"] is None
    assert "share" in capsys.readouterr().out


def test_a_step_reads_weights_once_and_every_row_s_columns():
    model = roofline.random_backbone("tiny", "cpu").model
    n_weights = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    assert roofline.step_bytes(model, 3, 10) == 2 * (n_weights + 3 * 10 * 2 * 2 * 2 * 64)
