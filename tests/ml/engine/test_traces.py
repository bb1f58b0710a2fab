"""Traced forwards give what the usual ones give, for any rows, tokens and columns, and hold nothing for ever."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence

import pytest
import torch

from ml.backbone import load_backbone
from ml.engine import runner as runner_module
from ml.engine.choices import Tree
from ml.engine.lora import Delta
from ml.engine.runner import Runner
from ml.engine.traces import TraceCapture
from tests.ml.engine.conftest import KINDS, OWN, check_answers
from tests.ml.engine.test_attention import DECODERS
from tests.ml.tiny import save_tiny

SHARED = [kind for kind in KINDS if kind not in OWN]
DOWN = "model.layers.0.mlp.down_proj"


@pytest.fixture
def make_pair(tiny_llama_dir) -> Callable[..., list[Runner]]:
    """A runner whose forwards are not traced, and one whose are as soon as they come."""

    def make(folder=tiny_llama_dir, **options) -> list[Runner]:
        values = {"n_slots": 6, "length": 200, **options}
        usual, traced = (Runner(load_backbone(folder), is_traced=n == 1, **values) for n in (0, 1))
        assert traced.traces.is_on and not usual.traces.is_on
        traced.traces.after = 1
        return [usual, traced]

    return make


def same(runners: Sequence[Runner], first: int, ids: Sequence[Sequence[int]], positions: Sequence[int]) -> None:
    usual, traced = (runner.forward(first, ids, positions) for runner in runners)
    assert torch.equal(usual.states, traced.states) and torch.equal(usual.logits, traced.logits)


@pytest.mark.parametrize("shape", DECODERS)
@pytest.mark.parametrize("is_packed", [False, True])
def test_every_shape_of_decoder_has_the_very_logits_of_the_usual_forward(shape, is_packed, tmp_path, make_pair):
    runners = make_pair(save_tiny(tmp_path / shape, shape), is_packed=is_packed)
    torch.manual_seed(1)
    texts = [torch.randint(3, 300, (n,)).tolist() for n in (3, 150, 20, 90, 1)]
    same(runners, 0, texts, [0] * 5)
    for n_rows in (1, 5, 3):
        positions = [len(text) + n_rows for text in texts[:n_rows]]
        same(runners, 0, [[7]] * n_rows, positions)
    same(runners, 2, [[9, 8, 7], [6]], [30, 100])
    assert len(runners[1].traces) >= 2


def test_rows_of_different_length_are_read_in_runs_by_a_trace_as_well(make_pair, monkeypatch):
    runners = make_pair()
    same(runners, 0, [[5] * n for n in (2, 130, 4, 3, 6, 5)], [0] * 6)
    before = len(runners[1].traces)
    for shift in range(3):
        same(runners, 0, [[9]] * 6, [n + shift for n in (2, 130, 4, 3, 6, 5)])
    same(runners, 0, [[9]] * 5, [4, 9, 8, 140, 10])
    assert len(runners[1].traces) == before + 1


def test_labels_are_scored_by_traces_as_well(make_pair):
    runners = make_pair()
    nodes = ((), (5,), (5, 6))
    trees = [
        Tree(
            ids=(3, 5, 6)[:n], first=0, sees=((0,), (0, 1), (0, 1, 2))[:n], edges=tuple((at, 9) for at in range(n)),
            nodes=nodes[:n], paths=tuple((*node, 9) for node in nodes[:n]),
        )
        for n in (3, 1)
    ]  # fmt: skip
    same(runners, 0, [[5, 6, 7], [8, 9]], [0, 0])
    usual, traced = (runner.score(0, trees, [3, 2]) for runner in runners)
    assert usual == traced and [len(row) for row in usual] == [3, 1]


def test_a_trace_serves_other_adapters_ranks_and_rows(make_pair):
    runners = make_pair()
    counts = []
    for n, (rank, slots) in enumerate([(4, [0]), (4, [0, 1]), (40, [1, 3]), (2, [0, 2, 3]), (8, [2])]):
        torch.manual_seed(n)
        change = {DOWN: Delta(torch.randn(rank, 64) * 0.1, torch.randn(rank, 32) * 0.1)}
        for runner in runners:
            for slot in range(4):
                runner.sites.set(slot, change if slot in slots else None)
        same(runners, 0, [[5, 6]] * 4, [0] * 4)
        same(runners, 0, [[5]] * 4, [2] * 4)
        counts.append(len(runners[1].traces))
    assert counts[0] == counts[-1] == 4  # without and with a delta, one token and several


def test_rows_of_every_form_together_have_the_logits_of_peft(zoo, make_engine, seen_logits):
    engine = make_engine(n_slots=5, is_traced=True)
    engine.runner.traces.after = 1
    check_answers(zoo, engine, seen_logits, SHARED)
    check_answers(zoo, engine, seen_logits, SHARED[::-1])
    assert len(engine.runner.traces) > 4


def test_what_comes_seldom_is_not_traced(zoo, make_engine, seen_logits):
    engine = make_engine(is_traced=True)
    before = len(engine.runner.traces)
    check_answers(zoo, engine, seen_logits, ["lora", "plain"])
    assert len(engine.runner.traces) == before == 2


def test_a_model_that_cannot_be_traced_is_run_as_it_is(zoo, make_engine, seen_logits, monkeypatch, caplog):
    def refuse(self, step, inputs):
        raise RuntimeError("tracing is gone")

    monkeypatch.setattr(TraceCapture, "__call__", refuse)
    engine = make_engine(is_traced=True)
    assert engine.runner.n_graphs is None and "tracing is gone" in caplog.text
    check_answers(zoo, engine, seen_logits, SHARED)


def test_a_trace_that_would_answer_otherwise_is_not_used(zoo, make_engine, seen_logits, monkeypatch, caplog):
    """Whatever a model's Python decides by numbers stays in a trace as it was decided."""
    capture = TraceCapture.__call__

    def stuck(self, step, inputs):
        replay = capture(self, step, inputs)
        return lambda ids, at, *others: replay(ids, torch.zeros_like(at), *others)

    monkeypatch.setattr(TraceCapture, "__call__", stuck)
    engine = make_engine(is_traced=True)
    assert engine.runner.n_graphs is None and "of tiny-llama are not traced: its logits differ" in caplog.text
    check_answers(zoo, engine, seen_logits, ["plain", "lora"])


def test_at_the_limit_the_rest_is_run_as_it_is(tiny_llama_dir, monkeypatch):
    monkeypatch.setattr(runner_module, "MOST_TRACES", 1)
    runner = Runner(load_backbone(tiny_llama_dir), n_slots=2, length=60)
    runner.traces.after = 1
    runner.forward(0, [[5]], [0])
    runner.forward(0, [[5, 6]], [0])
    assert len(runner.traces) == 1


def test_a_model_with_traces_is_given_back_whole(tiny_llama_dir):
    """TorchScript keeps its graphs until the process ends: nothing of a model may be a constant in one."""
    runner = Runner(load_backbone(tiny_llama_dir), n_slots=2, length=60, is_packed=True)
    assert len(runner.traces) == 2
    held = [weakref.ref(tensor) for tensor in runner._held()[0]]
    del runner
    gc.collect()
    assert [one() for one in held if one() is not None] == []


def test_a_trace_forgets_where_its_operations_came_from():
    kept = []

    def step(x):
        return x * 2 + 1

    original = torch.jit.trace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.jit, "trace", lambda *args, **options: kept.append(original(*args, **options)) or kept[0])
        replay = TraceCapture(lambda: ([], []))(step, [torch.ones(3)])
    assert torch.equal(replay(torch.arange(4.0)), torch.tensor([1.0, 3.0, 5.0, 7.0]))
    assert all(node.sourceRange() == "" for node in kept[0].graph.nodes())


def test_a_second_engine_over_a_packed_model_traces_as_well(tiny_llama_dir):
    backbone = load_backbone(tiny_llama_dir)
    first, second = (Runner(backbone, n_slots=2, length=60, is_packed=True) for _ in range(2))
    assert first.packs.by_name and not second.packs.by_name and second.n_graphs == 2
