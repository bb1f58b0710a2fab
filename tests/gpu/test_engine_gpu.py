"""What the engine must hold everywhere (ENGINE.md), on the GPU: in float32 to PEFT's logits, in bfloat16 to its own."""

from __future__ import annotations

import itertools

import pytest
import torch

from ml.data.chat import prompt_ids
from ml.engine.graphs import Graphs
from tests.ml.engine.conftest import HEADS, KINDS, OWN, request_of, run

TEXTS = ["Hello", "My lights went out. What should I do?", "What colour is the very very blue sky?", "A tree."]
SHARED = [kind for kind in KINDS if kind not in OWN]


def prompts_of(zoo, kinds):
    texts = zip(kinds, itertools.cycle(TEXTS), strict=False)
    return {kind: prompt_ids(zoo.backbone.tokenizer, [{"role": "user", "content": text}]) for kind, text in texts}


def answers_of(zoo, engine, kinds, n=12):
    prompts = prompts_of(zoo, kinds)
    outcome = run(engine, [request_of(zoo, kind, prompts[kind], max_tokens=n) for kind in kinds])
    return {kind: outcome.ids(kind) for kind in kinds}


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_has_the_logits_and_tokens_of_peft(kind, zoo, make_gpu_engine, seen_logits):
    ids = prompts_of(zoo, [kind])[kind]
    answer = run(make_gpu_engine("float32"), [request_of(zoo, kind, ids)]).ids(kind)
    for n in range(len(answer)):
        expected = zoo.logits(kind, [*ids, *answer[:n]])
        torch.testing.assert_close(seen_logits[kind, n].cpu(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("n_slots", [3, len(KINDS)])
def test_rows_of_every_form_together_have_the_logits_and_tokens_of_peft(n_slots, zoo, make_gpu_engine, seen_logits):
    """Fewer slots than rows: rows come, go and move while others decode."""
    engine = make_gpu_engine("float32", n_slots=n_slots)
    for kind, answer in answers_of(zoo, engine, KINDS).items():
        ids = prompts_of(zoo, KINDS)[kind]
        assert answer == zoo.greedy(kind, ids, 12, engine.stop_ids), kind
        for n in range(len(answer)):
            expected = zoo.logits(kind, [*ids, *answer[:n]])
            torch.testing.assert_close(seen_logits[kind, n].cpu(), expected, atol=1e-4, rtol=0)


def test_heads_give_the_probabilities_of_training(zoo, make_gpu_engine):
    prompts = prompts_of(zoo, [*HEADS])
    outcome = run(make_gpu_engine("float32"), [request_of(zoo, kind, prompts[kind]) for kind in HEADS])
    for kind in HEADS:
        found = {label.label: label.probability for label in outcome.done(kind).labels}
        assert found == pytest.approx(dict(zoo.labels(kind, prompts[kind])), abs=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_steps_from_graphs_have_the_logits_of_steps_without(dtype, zoo, make_gpu_engine, seen_logits, device):
    answers, logits = [], []
    for has_graphs in (False, True):
        seen_logits.clear()
        engine = make_gpu_engine(dtype, n_slots=5)
        steps = engine.runner.steps
        steps.graphs = steps.graphs if has_graphs else Graphs(None)
        answers.append([answers_of(zoo, engine, kinds) for kinds in (SHARED, SHARED[::-1])])
        logits.append(dict(seen_logits))
        if device == "cuda":
            assert steps.graphs.is_on == has_graphs and (len(steps.graphs) > 3) == has_graphs
    assert answers[0] == answers[1]
    for key, expected in logits[0].items():
        torch.testing.assert_close(logits[1][key], expected, atol=1e-5 if dtype == "float32" else 2e-2, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_together_have_the_logits_of_each_alone(dtype, zoo, make_gpu_engine, seen_logits):
    """In bfloat16 batches are added up in another order: the logits of the first tokens are near, tokens may differ."""
    answers_of(zoo, make_gpu_engine(dtype, n_slots=len(SHARED)), SHARED)
    together = {kind: seen_logits[kind, 0] for kind in SHARED}
    alone, prompts = make_gpu_engine(dtype), prompts_of(zoo, SHARED)
    for kind in SHARED:
        run(alone, [request_of(zoo, kind, prompts[kind])])
        allowed = 1e-4 if dtype == "float32" else 3e-2 * (float(together[kind].abs().max()) + 1)
        torch.testing.assert_close(seen_logits[kind, 0], together[kind], atol=allowed, rtol=0)


def test_cancelled_rows_leave_no_slot_behind(zoo, make_gpu_engine):
    engine = make_gpu_engine("float32", n_slots=3)
    ids = prompts_of(zoo, ["lora"])["lora"]
    for at in range(1, 12):
        engine.submit(request_of(zoo, "lora", ids, name="goes", max_tokens=40))
        engine.submit(request_of(zoo, "plain", ids, name="stays", max_tokens=6))
        for _ in range(at):
            engine.step()
        engine.cancel("goes")
        run(engine)
        assert engine.is_idle and not engine.scheduler.live and engine.scheduler.table.n_free == 3
