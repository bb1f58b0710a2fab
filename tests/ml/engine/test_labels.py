"""A classifier head answers with its label out of the same batch, from the features that it was trained on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ml.data.chat import completion_ids, prompt_ids
from ml.engine.types import Done, Started, Token
from ml.errors import ModelError
from tests.ml.engine.conftest import HEADS, LABELS, request_of, run

TEXTS = ["Hello", "My lights went out. What should I do?", "What colour is the very very blue sky?"]


def ids_of(zoo, text):
    return prompt_ids(zoo.backbone.tokenizer, [{"role": "user", "content": text}])


@pytest.mark.parametrize("prefill_tokens", [1, 5, 1000])
@pytest.mark.parametrize("kind", HEADS)
def test_the_probabilities_are_those_of_trainings_own_head(kind, prefill_tokens, zoo, make_engine):
    for text in TEXTS:
        ids = ids_of(zoo, text)
        done = run(make_engine(prefill_tokens=prefill_tokens), [request_of(zoo, kind, ids)]).done(kind)
        expected = zoo.labels(kind, ids)
        assert [label.label for label in done.labels] == [label for label, _ in expected]
        assert [label.probability for label in done.labels] == pytest.approx([p for _, p in expected], abs=1e-4)


@pytest.mark.parametrize("kind", HEADS)
def test_the_features_are_those_that_it_was_trained_on(kind, zoo, make_engine, monkeypatch):
    import ml.engine.labels as labels_module

    seen = []
    original = labels_module.labels_of
    monkeypatch.setattr(
        labels_module, "labels_of", lambda head, features: seen.append(features) or original(head, features)
    )
    ids = ids_of(zoo, TEXTS[1])
    run(make_engine(prefill_tokens=7), [request_of(zoo, kind, ids)])
    given = torch.tensor([ids])
    torch.testing.assert_close(seen[0], zoo.heads[kind].features(given, torch.ones_like(given))[0], atol=1e-4, rtol=0)


def test_the_events_are_a_start_the_whole_label_and_an_end_with_usage(zoo, make_engine):
    ids = ids_of(zoo, TEXTS[0])
    outcome = run(make_engine(), [request_of(zoo, "head_mean", ids, name="r", max_tokens=1, stop=("e",))])
    started, token, done = outcome.events
    label, _ = zoo.labels("head_mean", ids)[0]
    assert started == Started(id="r", prompt_tokens=len(ids), prefix_tokens=0)
    assert isinstance(token, Token) and isinstance(done, Done)
    assert (token.text, done.text, done.tail, done.finish_reason) == (label, label, "", "stop")
    assert zoo.backbone.tokenizer.decode(token.ids) == label and token.n == done.completion_tokens == len(token.ids)
    assert {found.label for found in done.labels} == set(LABELS)
    assert sum(found.probability for found in done.labels) == pytest.approx(1)


def test_it_is_read_in_the_same_passes_as_rows_that_write(zoo, make_engine):
    ids = ids_of(zoo, TEXTS[1])
    engine = make_engine(prefill_tokens=1000)
    outcome = run(engine, [request_of(zoo, kind, ids) for kind in ("head_mean", "plain", "lora", "head_last")])
    assert outcome.done("head_mean").last_step == outcome.done("plain").first_step == outcome.done("lora").first_step
    for kind in ("plain", "lora"):
        assert outcome.ids(kind) == zoo.greedy(kind, ids, 6, engine.stop_ids)
    for kind in ("head_mean", "head_last"):
        assert outcome.done(kind).labels[0].label == zoo.labels(kind, ids)[0][0]


def test_another_engine_gives_the_figures_of_a_label_that_was_sent_already(zoo, make_engine):
    request = request_of(zoo, "head_mean", ids_of(zoo, TEXTS[1]), name="r")
    whole = run(make_engine(), [request])
    again = run(make_engine(), [replace(request, emitted=tuple(whole.ids("r")))])
    assert not again.tokens("r")
    assert (again.done("r").text, again.done("r").labels) == (whole.done("r").text, whole.done("r").labels)
    assert again.done("r").completion_tokens == whole.done("r").completion_tokens


def test_texts_to_be_scored_get_the_labels_own_probabilities(zoo, make_engine):
    tokenizer, ids = zoo.backbone.tokenizer, ids_of(zoo, TEXTS[0])
    texts = [*LABELS, "no label of its"]
    choices = tuple(tuple(completion_ids(tokenizer, text)) for text in texts)
    request = replace(request_of(zoo, "head_mean", ids, name="r"), choices=choices, writes=False)
    done = run(make_engine(), [request]).done("r")
    expected = dict(zoo.labels("head_mean", ids))
    assert [math.exp(score) for score in done.scores] == pytest.approx([expected.get(t, 0) for t in texts], abs=1e-4)
    assert done.n_scored == tuple(len(choice) for choice in choices)


def test_a_prompt_as_long_as_the_context_fits_since_no_answer_is_written(zoo, make_engine):
    ids = (5,) * 64
    engine = make_engine(length=65)
    assert run(engine, [request_of(zoo, "head_mean", ids, max_tokens=1)]).done("head_mean").labels


def test_features_that_are_not_finite_fail_the_row_by_name(zoo):
    from ml.engine.labels import labels_of

    with pytest.raises(ModelError, match="not finite"):
        labels_of(zoo.heads["head_mean"], torch.full((32,), float("nan")))
