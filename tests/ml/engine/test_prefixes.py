"""Beginnings of prompts that are copied, not read: the answers are the same, and nothing leaks between tasks."""

from __future__ import annotations

import pytest
import torch

from ml.data.chat import prompt_ids
from tests.ml.engine.conftest import KINDS, request_of, run

SYSTEM = "You answer questions about lights. Example: no light? Check the breaker. Answer with one word."
QUESTIONS = ["Hello", "My lights went out.", "What colour is the sky?", "A tree."]


def ids_of(zoo, question: str) -> list[int]:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    return prompt_ids(zoo.backbone.tokenizer, messages)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_copies_its_beginning_has_the_logits_and_tokens_of_peft(kind, zoo, make_engine, seen_logits):
    """Also LoRA, IA3 and models of their own: what is copied was computed with the same changes."""
    engine = make_engine(length=256)
    for question in QUESTIONS:
        ids = ids_of(zoo, question)
        outcome = run(engine, [request_of(zoo, kind, ids, name=question)])
        assert outcome.ids(question) == zoo.greedy(kind, ids, 6, engine.stop_ids)
        for n in range(len(outcome.ids(question))):
            expected = zoo.logits(kind, [*ids, *outcome.ids(question)[:n]])
            torch.testing.assert_close(seen_logits[question, n], expected, atol=1e-4, rtol=0)
    shared = engine.snapshot().shared_prefixes
    assert (shared["rows"], shared["hits"]) == (4, 2) and shared["bytes"] > 0


@pytest.mark.parametrize("prefill_tokens", [3, 1000])
def test_rows_of_many_tasks_at_once_copy_only_their_own(prefill_tokens, zoo, make_engine):
    engine = make_engine(n_slots=6, length=256, prefill_tokens=prefill_tokens)
    kinds = ["plain", "lora", "ia3", "prompt_tuning", "prefix_tuning"]
    for question in QUESTIONS:
        ids = ids_of(zoo, question)
        requests = [request_of(zoo, k, ids, name=f"{k} {team}", team=team) for k in kinds for team in (1, 2)]
        outcome = run(engine, requests)
        for kind in kinds:
            expected = zoo.greedy(kind, ids, 6, engine.stop_ids)
            assert outcome.ids(f"{kind} 1") == outcome.ids(f"{kind} 2") == expected
    assert engine.snapshot().shared_prefixes["hits"] == 2 * 2 * len(kinds)
    texts = {key[3] for key in engine.prefixes.store._kept if key[3]}
    assert {text.split()[0] for text in texts} == {"1", "2"}


def test_the_start_says_how_much_was_not_read(zoo, make_engine):
    engine = make_engine(length=256)
    cached = []
    for question in QUESTIONS[:3]:
        outcome = run(engine, [request_of(zoo, "plain", ids_of(zoo, question), name="r")])
        cached.append(outcome.events[0].cached_tokens)
    n_shared = len(ids_of(zoo, "")) - len(prompt_ids(zoo.backbone.tokenizer, [{"role": "user", "content": ""}]))
    assert cached[:2] == [0, 0] and cached[2] >= n_shared


def test_memory_for_prefixes_is_bounded_and_answers_stay_the_same(zoo, make_engine):
    engine = make_engine(length=256, prefix_bytes=1)
    for question in QUESTIONS:
        for kind in ("plain", "prompt_tuning"):
            ids = ids_of(zoo, question)
            assert run(engine, [request_of(zoo, kind, ids)]).ids(kind) == zoo.greedy(kind, ids, 6, engine.stop_ids)
    assert len(engine.prefixes.store._kept) == 1


def test_it_is_counted_how_often_a_task_s_prefix_was_there(zoo, make_engine):
    engine = make_engine(length=256)
    for question in ("a", "b", "c"):
        run(engine, [request_of(zoo, "prompt_tuning", prompt_ids(zoo.backbone.tokenizer, [
            {"role": "user", "content": question}]))])  # fmt: skip
    shared = engine.snapshot().shared_prefixes
    assert (shared["computed"], shared["found"]) == (1, 2)


def test_a_head_reads_its_whole_prompt(zoo, make_engine):
    """Its features are pooled over all tokens; a copied beginning would leave some out."""
    engine = make_engine(length=256)
    for question in QUESTIONS:
        ids = ids_of(zoo, question)
        done = run(engine, [request_of(zoo, "head_mean", ids)]).done("head_mean")
        assert [found.probability for found in done.labels] == pytest.approx(
            [probability for _, probability in zoo.labels("head_mean", ids)], abs=1e-4
        )
    assert engine.snapshot().shared_prefixes["rows"] == 0


def test_a_beginning_with_values_that_are_not_finite_is_not_kept(zoo, make_engine, monkeypatch):
    engine = make_engine(length=256)
    read = engine.runner.read_prefix
    monkeypatch.setattr(engine.runner, "read_prefix", lambda slot, n: read(slot, n) * float("nan"))
    for question in QUESTIONS:
        run(engine, [request_of(zoo, "plain", ids_of(zoo, question))])
    assert engine.snapshot().shared_prefixes["hits"] == 0
