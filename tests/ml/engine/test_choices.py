"""Scored answers: as likely as the model says about each alone, in any company, by any rounds."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.data.chat import completion_ids, prompt_ids
from ml.engine import choices as choices_module
from ml.engine.choices import SHARE, TOLERANCE, Scoring, n_nodes
from tests.ml.engine.conftest import request_of, run

LABELS = ["red", "green", "blue", "bluish green", "blue as the sea"]
TEXTS = ["Hello", "My lights went out. What should I do?", "A tree."]


def ids_of(zoo, text):
    return prompt_ids(zoo.backbone.tokenizer, [{"role": "user", "content": text}])


@pytest.fixture
def labels(zoo):
    return tuple(tuple(completion_ids(zoo.backbone.tokenizer, label)) for label in LABELS)


def oracle(zoo, kind, ids, label):
    """PEFT's own log probability of `label` after `ids`, one token after another."""
    given, total = list(ids), 0.0
    for token in label:
        total += float(torch.log_softmax(zoo.logits(kind, given), -1)[token])
        given.append(token)
    return total


def scored(zoo, kind, ids, labels, *, name="", writes=False):
    return replace(request_of(zoo, kind, ids, name=name), choices=labels, writes=writes)


@pytest.mark.parametrize("kind", ["plain", "prompt_tuning", "prefix_tuning", "lora"])
def test_each_choice_is_as_likely_as_peft_says_about_it_alone(kind, zoo, make_engine, labels):
    ids = ids_of(zoo, TEXTS[1])
    done = run(make_engine(), [scored(zoo, kind, ids, labels)]).done(kind)
    assert done.scores == pytest.approx([oracle(zoo, kind, ids, label) for label in labels], abs=2e-4)
    assert done.finish_reason == "stop" and done.completion_tokens == 0


def test_rows_of_several_forms_are_scored_in_one_batch_as_alone(zoo, make_engine, labels):
    kinds = ["plain", "lora", "p_tuning", "lora_other"]
    requests = [
        scored(zoo, kind, ids_of(zoo, text), labels) for kind, text in zip(kinds, [*TEXTS, TEXTS[0]], strict=True)
    ]
    outcome = run(make_engine(prefill_tokens=1000), requests)
    for kind, request in zip(kinds, requests, strict=True):
        expected = [oracle(zoo, kind, request.prompt_ids, label) for label in labels]
        assert outcome.done(kind).scores == pytest.approx(expected, abs=2e-4), kind


def test_scored_rows_leave_rows_that_write_beside_them_as_they_are(zoo, make_engine, labels):
    ids = ids_of(zoo, TEXTS[1])
    writer = request_of(zoo, "lora", ids, name="writer")
    alone = run(make_engine(), [writer]).ids("writer")
    scoring = [scored(zoo, "plain", ids_of(zoo, text), labels, name=text) for text in TEXTS]
    assert run(make_engine(prefill_tokens=9), [scoring[0], writer, *scoring[1:]]).ids("writer") == alone


def test_an_answer_is_written_as_ever_after_the_expected_one_was_scored(zoo, make_engine, labels):
    ids = ids_of(zoo, TEXTS[1])
    alone = run(make_engine(), [request_of(zoo, "plain", ids)]).ids("plain")
    outcome = run(make_engine(), [scored(zoo, "plain", ids, labels[-1:], writes=True)])
    assert outcome.ids("plain") == alone
    assert outcome.done("plain").scores == pytest.approx([oracle(zoo, "plain", ids, labels[-1])], abs=2e-4)


def test_another_engine_scores_the_prompt_and_not_what_was_written_before(zoo, make_engine, labels):
    ids = ids_of(zoo, TEXTS[1])
    request = scored(zoo, "plain", ids, labels[:1], writes=True)
    whole = run(make_engine(), [request])
    taken_over = run(make_engine(), [replace(request, emitted=tuple(whole.ids("plain")[:2]))])
    assert taken_over.ids("plain") == whole.ids("plain")[2:]
    assert taken_over.done("plain").scores == pytest.approx(whole.done("plain").scores, abs=1e-4)


def rounds_of(scoring, logprob):
    """The trees that are read until every text that matters is; `logprob` says it of a path's last token."""
    trees = []
    while tree := scoring.next_tree():
        trees.append(tree)
        scoring.take(tree, [logprob(path) for path in tree.paths])
    return trees


@pytest.mark.parametrize("writes", [True, False])
def test_choices_read_in_rounds_are_as_likely_as_those_read_at_once(zoo, make_engine, labels, monkeypatch, writes):
    """What earlier rounds have read stays behind the prompt, also when the row moves to another slot."""
    requests = [scored(zoo, "plain", ids_of(zoo, text), labels, name=text, writes=writes) for text in TEXTS]
    whole = run(make_engine(), requests)
    monkeypatch.setattr(choices_module, "ROUND", 2)
    monkeypatch.setattr(choices_module, "SMALL", 2)
    monkeypatch.setattr(choices_module, "MOST_NODES", 3)
    monkeypatch.setattr(choices_module, "TOLERANCE", 0.0)
    rounds = run(make_engine(prefill_tokens=20), requests)
    for text in TEXTS:
        assert rounds.done(text).scores == pytest.approx(whole.done(text).scores, abs=2e-4)


def test_beginnings_are_read_again_when_their_columns_are_full(zoo, make_engine, labels, monkeypatch):
    request = scored(zoo, "plain", ids_of(zoo, TEXTS[2]), labels)
    whole = run(make_engine(), [request]).done("plain").scores
    monkeypatch.setattr(choices_module, "ROUND", 2)
    monkeypatch.setattr(choices_module, "SMALL", 2)
    monkeypatch.setattr(choices_module, "TOLERANCE", 0.0)
    engine = make_engine()
    monkeypatch.setattr(Scoring, "n_columns", max(map(len, labels)))
    assert run(engine, [request]).done("plain").scores == pytest.approx(whole, abs=2e-4)


def test_a_small_set_is_read_at_once_and_whole():
    texts = ((1, 2, 9), (3, 4, 5, 6, 9))
    trees = rounds_of(Scoring(root=0, choices=texts, may_prune=True), lambda path: -0.1 if path[0] == 1 else -14.0)
    assert [len(tree.ids) for tree in trees] == [n_nodes(texts)]


def test_a_choice_whose_beginning_is_hopeless_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(choices_module, "ROUND", 2)
    monkeypatch.setattr(choices_module, "SMALL", 2)
    texts = ((1, 2, 9), (3, 4, 5, 6, 9))
    scoring = Scoring(root=0, choices=texts, may_prune=True)
    trees = rounds_of(scoring, lambda path: -14.0 if path == (3,) else -0.1)
    assert scoring.scores == pytest.approx((-0.3, -14.1 + math.log(SHARE)))
    assert sum(len(tree.ids) for tree in trees) < n_nodes(texts)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40))
def test_the_likeliest_choice_is_exact_and_what_is_unread_weighs_little(seed, n):
    draw = random.Random(seed)
    texts = tuple({(*(draw.randrange(4) for _ in range(draw.randint(1, 5))), 5) for _ in range(n)})
    known = {}

    def logprob(path):
        """Of a proper distribution: what follows one beginning sums up to less than one."""
        if path[:-1] not in known:
            shares = [draw.expovariate(1) ** 3 for _ in range(6)]
            known[path[:-1]] = [math.log(share / sum(shares)) for share in shares]
        return known[path[:-1]][path[-1]]

    full = [sum(logprob(text[: k + 1]) for k in range(len(text))) for text in texts]
    scoring = Scoring(root=0, choices=texts, may_prune=True, most_columns=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choices_module, "ROUND", 3)
        patch.setattr(choices_module, "SMALL", 3)
        trees = rounds_of(scoring, logprob)
    assert all(max(max(columns) for columns in tree.sees) < max(8, *map(len, texts)) for tree in trees)
    best = max(range(len(texts)), key=full.__getitem__)
    assert max(range(len(texts)), key=scoring.scores.__getitem__) == best
    assert scoring.scores[best] == pytest.approx(full[best])

    def share(values):
        return math.exp(values[best]) / sum(map(math.exp, values))

    assert share(scoring.scores) == pytest.approx(share(full), abs=TOLERANCE)


def test_texts_with_a_common_beginning_read_it_once():
    tree = Scoring(root=7, choices=((1, 2, 9), (1, 2, 3, 9))).next_tree()
    assert tree is not None
    assert tree.ids == (7, 1, 2, 3) and tree.sees == ((0,), (0, 1), (0, 1, 2), (0, 1, 2, 3))


def test_a_long_prompt_keeps_fewer_columns_behind_it(zoo, make_engine):
    texts = tuple((n % 50, n // 50, 3, 4, 9) for n in range(200))
    engine = make_engine(length=160)
    request = replace(scored(zoo, "plain", [5] * 60, texts), choices=texts)
    engine.submit(request)
    assert n_nodes(texts) > 160


def test_choices_that_do_not_fit_the_context_are_refused(zoo, make_engine, labels):
    from ml.errors import ContextTooLongError

    engine = make_engine(length=64)
    ids = (ids_of(zoo, TEXTS[1]) * 9)[:62]
    with pytest.raises(ContextTooLongError):
        engine.submit(scored(zoo, "plain", ids, labels))


def test_cancelling_while_choices_are_scored_frees_the_slot(zoo, make_engine, labels, monkeypatch):
    monkeypatch.setattr(choices_module, "ROUND", 2)
    monkeypatch.setattr(choices_module, "SMALL", 2)
    engine = make_engine()
    engine.submit(scored(zoo, "plain", ids_of(zoo, TEXTS[0]), labels, name="r"))
    for _ in range(3):
        engine.step()
    engine.cancel("r")
    engine.step()
    assert engine.is_idle and not engine.snapshot().rows
