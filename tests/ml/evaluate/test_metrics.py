"""Metrics against values worked out by hand or known from elsewhere."""

from __future__ import annotations

import math

import pytest

from ml.evaluate import metrics


def test_wilson_is_the_textbook_interval() -> None:
    assert metrics.wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert metrics.wilson(0, 10) == pytest.approx((0.0, 0.2775328), abs=1e-6)
    assert metrics.wilson(10, 10)[1] == 1.0


def test_nothing_counted_says_nothing() -> None:
    assert metrics.wilson(0, 0) == (0.0, 1.0)
    assert metrics.mean_interval([0.5]) == (0.0, 1.0)


def test_macro_f1_weighs_labels_equally() -> None:
    expected, got = ["a", "a", "a", "b"], ["a", "a", "b", "b"]
    assert metrics.macro_f1(expected, got) == pytest.approx((0.8 + 2 / 3) / 2)
    assert metrics.macro_f1(["a"], ["b"]) == 0.0


def test_macro_f1_gets_a_repeatable_interval() -> None:
    expected = ["a", "b", "c", "a", "b", "c", "a", "b"] * 5
    got = ["a", "b", "c", "a", "c", "c", "b", "b"] * 5
    low, high = metrics.macro_f1_interval(expected, got)
    assert 0.5 < low < metrics.macro_f1(expected, got) < high < 0.9
    assert metrics.macro_f1_interval(expected, got) == (low, high)
    assert metrics.macro_f1_interval(expected, expected) == (1.0, 1.0)


def test_accuracy_is_the_share_of_agreement() -> None:
    assert metrics.accuracy(["a", "b"], ["a", "a"]) == 0.5


@pytest.mark.parametrize(
    ("got", "same"), [("The cat.", True), ("  the\n CAT ", True), ("the cats", False), ("", False)]
)
def test_exact_match_ignores_case_space_and_edge_punctuation(got: str, same: bool) -> None:
    assert metrics.exact_match("the cat", got) is same


def test_token_f1_counts_words_as_multisets() -> None:
    assert metrics.token_f1("the cat sat", "the cat the cat") == pytest.approx(2 * 2 / 7)
    assert metrics.token_f1("x", "y") == 0.0
    assert metrics.token_f1("", "") == 1.0


def test_perplexity_never_overflows() -> None:
    assert metrics.perplexity(math.log(7)) == pytest.approx(7)
    assert metrics.perplexity(1e6) == math.inf


def test_a_long_answer_weighs_as_many_tokens_as_it_has() -> None:
    assert metrics.token_mean([1.0, 4.0], [2, 1]) == 2.0
    assert metrics.token_mean([], []) == 0.0


def test_a_version_is_better_by_accuracy_then_by_loss() -> None:
    old = {"accuracy": 0.5, "loss": 1.0}
    assert metrics.better({"accuracy": 0.6, "loss": 9.0}, old)
    assert metrics.better({"accuracy": 0.5, "loss": 0.9}, old)
    assert not metrics.better({"accuracy": 0.5, "loss": 1.0}, old)
    assert not metrics.better({"accuracy": 0.4, "loss": 0.1}, old)
    assert metrics.primary_metric(old) == "accuracy"


def test_free_answers_are_better_by_loss_alone() -> None:
    old = {"loss": 1.0, "bleu": 0.5}
    assert metrics.better({"loss": 0.9, "bleu": 0.1}, old)
    assert not metrics.better({"loss": 1.1, "bleu": 0.9}, old)
    assert metrics.primary_metric(old) == "loss"


def test_anything_is_better_than_nothing_and_than_a_loss_that_is_no_number() -> None:
    assert metrics.better({"loss": math.nan}, None)
    assert metrics.better({"loss": 1e9}, {"loss": math.nan})
    assert not metrics.better({"loss": math.nan}, {"loss": 1e9})
    assert not metrics.better({"loss": math.nan}, {"loss": math.nan})
