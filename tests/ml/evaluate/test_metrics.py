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
