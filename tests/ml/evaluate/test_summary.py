"""An evaluation's figures from answered rows."""

from __future__ import annotations

import math

import pytest

from ml.errors import SpecError
from ml.evaluate import metrics
from ml.evaluate.answers import Answered
from ml.evaluate.overlap import bleu, chrf, rouge_l
from ml.evaluate.scorers import probabilities
from ml.evaluate.summary import bins, confusion, costs, summarize
from ml.specs.measures import EVALUATION_METRICS, check_measures

LABELS = ["cat", "dog"]
TEXTS = [("the cat sat on the mat", "a cat sat on the mat"), ("it rains a lot today", "it rains"), ("no", "yes")]


def labelled(*pairs, scores=()):
    return [Answered(row=i, expected=a, got=b, scores=scores) for i, (a, b) in enumerate(pairs, start=1)]


def written(*pairs):
    return [Answered(row=i, expected=a, got=b, nll=2.0 * i, n_tokens=i) for i, (a, b) in enumerate(pairs, start=1)]


def test_labels_are_summed_up_as_the_metrics_say_row_by_row():
    rows = labelled(("cat", "cat"), ("cat", "dog"), ("dog", "dog"), ("dog", ""))
    found = summarize(rows, metrics=["accuracy", "macro_f1"], labels=LABELS)
    expected, got = [r.expected for r in rows], [r.got for r in rows]
    assert found["metrics"]["accuracy"] == 0.5 == metrics.accuracy(expected, got)
    assert found["metrics"]["macro_f1"] == pytest.approx(metrics.macro_f1(expected, got))
    assert found["intervals"]["accuracy"] == list(metrics.wilson(2, 4))
    assert found["n_right"] == 2 and found["n_rows"] == 4
    assert found["confusion"] == [[0, 0, 1], [0, 1, 1], [1, -1, 1], [1, 1, 1]]


def test_texts_are_summed_up_as_the_metrics_of_training_runs_are():
    rows = written(*TEXTS)
    expected, got = [a for a, _ in TEXTS], [b for _, b in TEXTS]
    names = ["token_f1", "exact_match", "chrf", "rouge_l", "bleu", "perplexity"]
    found = summarize(rows, metrics=names)
    for name, score in (("bleu", bleu), ("chrf", chrf), ("rouge_l", rouge_l)):
        value, interval = score(expected, got)
        assert found["metrics"][name] == pytest.approx(value)
        assert found["intervals"][name] == pytest.approx(list(interval))
    assert found["metrics"]["exact_match"] == 0
    assert found["metrics"]["perplexity"] == pytest.approx(math.exp(12 / 6))
    low, high = found["intervals"]["perplexity"]
    assert low <= found["metrics"]["perplexity"] <= high


def test_perplexity_leaves_out_rows_that_were_never_scored():
    rows = [*written(("a", "b")), Answered(row=9, expected="c", got="", nll=None)]
    assert summarize(rows, metrics=["perplexity"])["metrics"]["perplexity"] == pytest.approx(math.exp(2))


def test_a_sure_and_right_subject_is_calibrated_and_a_sure_and_wrong_one_is_not():
    sure = (math.log(0.999), math.log(0.001))
    right, wrong = labelled(("cat", "cat"), scores=sure), labelled(("dog", "cat"), scores=sure)
    assert summarize(right, metrics=["ece"], labels=LABELS)["metrics"]["ece"] == pytest.approx(0.001)
    assert summarize(wrong, metrics=["ece"], labels=LABELS)["metrics"]["ece"] == pytest.approx(0.999)


def test_confidence_is_binned_with_what_was_right_in_each_bin():
    half = (math.log(0.5), math.log(0.5))
    found = bins(labelled(("cat", "cat"), ("dog", "cat"), scores=half))
    assert [(b["n"], b["right"]) for b in found] == [(2, 0.5)]
    assert found[0]["confidence"] == pytest.approx(0.5)
    assert probabilities((-900.0, -902.0)).sum() == pytest.approx(1)


def test_an_unread_label_has_a_place_of_its_own_in_the_confusion():
    assert confusion(labelled(("cat", "")), LABELS) == [[0, -1, 1]]


@pytest.mark.parametrize(("answer", "n_right"), [("no", 0), ("a cat", 20)])
def test_texts_that_are_all_alike_still_leave_doubt(answer, n_right):
    found = summarize(written(*[("a cat", answer)] * 20), metrics=["token_f1", "rouge_l", "exact_match"])
    assert set(found["metrics"].values()) == {n_right / 20}
    assert all(bounds == list(metrics.wilson(n_right, 20)) for bounds in found["intervals"].values())


def test_one_row_says_nothing_about_the_interval():
    found = summarize(written(TEXTS[0]), metrics=["token_f1", "perplexity"])
    assert found["intervals"]["token_f1"] == [0.0, 1.0]
    assert "perplexity" not in found["intervals"]


def test_costs_leave_out_rows_without_figures():
    found = costs([{"tokens_in": 10, "latency_ms": 5.0}, {"tokens_in": 20, "latency_ms": None}, {"error": {}}])
    assert found["tokens_in"] == 15 and found["latency_p50_ms"] == 5.0 and found["tokens_out"] is None


@pytest.mark.parametrize(
    ("names", "task", "scored", "numbers", "said"),
    [
        (["bleu"], "classification", True, False, "compares texts"),
        (["accuracy"], "generation", True, False, "compares labels"),
        (["ece"], "classification", False, False, "probability of every label"),
        (["perplexity"], "generation", False, False, "likelihood"),
        (["numeric"], "generation", True, False, "needs a number"),
        (["wit"], "generation", True, True, "Unknown metric 'wit'"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused_with_the_reason(names, task, scored, numbers, said):
    with pytest.raises(SpecError, match=said) as caught:
        check_measures(names, task=task, is_scored=scored, has_numbers=numbers)
    assert caught.value.field == "metrics" and caught.value.hint


def test_all_that_fit_are_measured_when_none_is_named():
    assert check_measures([], task="classification", is_scored=True, has_numbers=False) == [
        "accuracy",
        "macro_f1",
        "ece",
    ]
    found = check_measures([], task="generation", is_scored=False, has_numbers=True)
    assert found[0] == "numeric" and "perplexity" not in found
    assert set(found) < set(EVALUATION_METRICS)
