"""Scored answers: as likely as the model says about each alone, in any company, by any rounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ml.data.chat import completion_ids, prompt_ids
from ml.engine import choices as choices_module
from ml.engine.choices import Scoring, n_nodes
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


def test_many_choices_are_read_in_rounds_with_the_same_likeliest_one(zoo, make_engine, labels, monkeypatch):
    ids = ids_of(zoo, TEXTS[2])
    whole = run(make_engine(), [scored(zoo, "plain", ids, labels)]).done("plain").scores
    monkeypatch.setattr(choices_module, "MOST_NODES", 3)
    rounds = run(make_engine(), [scored(zoo, "plain", ids, labels)]).done("plain").scores
    assert rounds == pytest.approx(whole, abs=2e-4)


def test_a_choice_whose_beginning_is_hopeless_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(choices_module, "MOST_NODES", 2)
    texts = ((1, 2, 9), (3, 4, 5, 6, 9))
    scoring, n_read = Scoring(root=0, choices=texts, may_prune=True), 0
    logprobs = {1: -0.1, 2: -0.1, 9: -0.1, 3: -14.0}
    while tree := scoring.next_tree():
        n_read += len(tree.ids)
        scoring.take(tree, [logprobs[token] for _, token in tree.edges])
    assert scoring.scores == pytest.approx((-0.3, -14.0))
    assert n_read == 4 < n_nodes(texts)


def test_texts_with_a_common_beginning_read_it_once():
    tree = Scoring(root=7, choices=((1, 2, 9), (1, 2, 3, 9))).next_tree()
    assert tree is not None
    assert tree.ids == (7, 1, 2, 3) and tree.parents == (-1, 0, 1, 2)


def test_choices_that_do_not_fit_the_context_are_refused(zoo, make_engine, labels):
    from ml.errors import ContextTooLongError

    engine = make_engine(length=64)
    ids = (ids_of(zoo, TEXTS[1]) * 9)[:62]
    with pytest.raises(ContextTooLongError):
        engine.submit(scored(zoo, "plain", ids, labels))


def test_cancelling_while_choices_are_scored_frees_the_slot(zoo, make_engine, labels, monkeypatch):
    monkeypatch.setattr(choices_module, "MOST_NODES", 2)
    engine = make_engine()
    engine.submit(scored(zoo, "plain", ids_of(zoo, TEXTS[0]), labels, name="r"))
    for _ in range(3):
        engine.step()
    engine.cancel("r")
    engine.step()
    assert engine.is_idle and not engine.snapshot().rows
