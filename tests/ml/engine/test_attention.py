"""Rows of different length are read in runs, each about as wide as it needs."""

from __future__ import annotations

import pytest
import torch

import ml.engine.attention as attention
from ml.backbone import load_backbone
from ml.data.chat import prompt_ids
from ml.engine.attention import NAME, even, reading, runs_of
from ml.engine.runner import Runner
from tests.ml.engine.conftest import request_of, run
from tests.ml.tiny import SHAPES, save_tiny

DECODERS = sorted(shape for shape, family in SHAPES.items() if family == "decoder")


@pytest.fixture
def widths_read(monkeypatch) -> list[tuple[int, int]]:
    """(rows, columns) of every call of sdpa."""
    calls: list[tuple[int, int]] = []
    original = attention.sdpa_attention_forward

    def sdpa(module, query, key, *others, **settings):
        calls.append((key.shape[0], key.shape[2]))
        return original(module, query, key, *others, **settings)

    monkeypatch.setattr(attention, "sdpa_attention_forward", sdpa)
    return calls


def test_rows_of_one_width_are_one_run():
    assert runs_of([64] * 16) == [(0, 16, 64)]
    assert runs_of([48, 64, 48]) == [(0, 3, 64)]


def test_one_long_row_is_read_by_itself():
    assert runs_of([64, 64, 1504, 64]) == [(0, 2, 64), (2, 3, 1504), (3, 4, 64)]


def test_runs_cover_every_row_with_all_its_columns_and_spare_more_than_they_cost():
    torch.manual_seed(0)
    for _ in range(50):
        widths = (torch.randint(1, 60, (12,)) * 16).tolist()
        runs = runs_of(widths)
        assert [row for first, end, _ in runs for row in range(first, end)] == list(range(12))
        assert all(width == max(widths[first:end]) for first, end, width in runs)
        read = sum((end - first) * width for first, end, width in runs)
        assert read + attention.SPARED * (len(runs) - 1) <= 12 * max(widths)


def test_runs_are_a_power_of_two_where_rows_allow_it():
    assert even([(0, 4, 64), (4, 5, 1504), (5, 6, 64)]) == [(0, 2, 64), (2, 4, 64), (4, 5, 1504), (5, 6, 64)]
    assert even([(0, 8, 16)]) == [(0, 8, 16)] and even([]) == []
    singles = [(n, n + 1, 64 * n) for n in range(5)]
    assert even(singles) == singles and len(even([*singles, (5, 20, 16)])) == 8


def test_no_rows_have_no_runs():
    assert runs_of([]) == []


@pytest.mark.parametrize("shape", DECODERS)
def test_a_step_in_runs_has_the_logits_of_each_row_alone(shape, tmp_path, monkeypatch, widths_read):
    monkeypatch.setattr(attention, "SPARED", 0)
    backbone = load_backbone(save_tiny(tmp_path / shape, shape))
    runner, lengths = Runner(backbone, n_slots=4, length=200, is_traced=False), [3, 150, 20, 90]
    torch.manual_seed(1)
    texts = [torch.randint(3, 300, (n + 1,)).tolist() for n in lengths]
    for slot, text in enumerate(texts):
        runner.forward(slot, [text[:-1]], [0])
    widths_read.clear()
    got = runner.forward(0, [text[-1:] for text in texts], lengths).logits
    assert {rows for rows, _ in widths_read} == {1} and {width for _, width in widths_read} == {16, 160, 32, 96}
    plain = load_backbone(tmp_path / shape).model
    for row, text in enumerate(texts):
        with torch.inference_mode():
            expected = plain(input_ids=torch.tensor([text])).logits[0, -1]
        torch.testing.assert_close(got[row], expected, atol=1e-4, rtol=0)


def test_answers_are_the_same_when_every_row_is_a_run_of_its_own(zoo, make_engine, monkeypatch):
    monkeypatch.setattr(attention, "SPARED", -1)
    kinds = ["plain", "prefix_tuning", "lora", "ia3"]
    texts = ["Hello", "My lights went out. What should I do now, and whom do I call?", "A tree.", "Hi"]
    prompts = [prompt_ids(zoo.backbone.tokenizer, [{"role": "user", "content": text}]) for text in texts]
    engine = make_engine()
    outcome = run(engine, [request_of(zoo, *pair) for pair in zip(kinds, prompts, strict=True)])
    for kind, ids in zip(kinds, prompts, strict=True):
        assert outcome.ids(kind) == zoo.greedy(kind, ids, 6, engine.stop_ids)


def test_prompts_are_read_whole(tiny_llama_dir, widths_read):
    runner = Runner(load_backbone(tiny_llama_dir), n_slots=2, length=100, is_traced=False)
    widths_read.clear()
    runner.forward(0, [[5, 6, 7], [8, 9]], [60, 0])
    assert set(widths_read) == {(2, 64)}


def test_only_the_forward_inside_reads_in_runs():
    assert attention._runs.get() == ()
    with reading([(0, 1, 16)]):
        assert attention._runs.get() == [(0, 1, 16)]
    assert attention._runs.get() == ()


def test_a_model_with_another_attention_keeps_it(tiny_llama_dir):
    model = load_backbone(tiny_llama_dir).model
    attention.use_runs(model)
    assert model.config._attn_implementation == NAME
    model.config._attn_implementation = "eager"
    attention.use_runs(model)
    assert model.config._attn_implementation == "eager"
