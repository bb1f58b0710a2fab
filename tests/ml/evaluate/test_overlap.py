"""ROUGE-L, BLEU and chrF against sacrebleu's own calls, a plain table, and values worked out by hand."""

from __future__ import annotations

import random

import pytest
from sacrebleu.metrics import BLEU, CHRF

from ml.evaluate import overlap

EXPECTED = [
    "The Phoenix is a cheap pub by the riverside.",
    "Near Burger King, The Mill serves English food for families.",
    "Blue Spice has a low rating.",
]
GOT = [
    "The Phoenix is a cheap pub near the riverside.",
    "The Mill serves English food near Burger King.",
    "A restaurant: Blue Spice.",
]


def test_corpus_scores_are_sacrebleus() -> None:
    assert overlap.bleu(EXPECTED, GOT)[0] == pytest.approx(BLEU().corpus_score(GOT, [EXPECTED]).score / 100)
    assert overlap.chrf(EXPECTED, GOT)[0] == pytest.approx(CHRF().corpus_score(GOT, [EXPECTED]).score / 100)


@pytest.mark.parametrize("score", [overlap.bleu, overlap.chrf, overlap.rouge_l])
def test_a_score_lies_in_its_interval_and_repeats(score: overlap.Score) -> None:
    value, (low, high) = score(EXPECTED, GOT)
    assert 0 <= low <= value <= high <= 1
    assert low < high
    assert score(EXPECTED, GOT) == (value, (low, high))


@pytest.mark.parametrize("score", [overlap.bleu, overlap.chrf, overlap.rouge_l])
def test_the_same_texts_score_one_and_empty_answers_nothing(score: overlap.Score) -> None:
    assert score(EXPECTED, EXPECTED)[0] == pytest.approx(1)
    assert score(EXPECTED, [""] * 3)[0] == 0
    assert score([], []) == (0.0, (0.0, 1.0))


def test_rouge_l_counts_the_longest_common_subsequence() -> None:
    """Lin 2004, section 3.1: S2 keeps the order of three of four words, S3 of two."""
    assert overlap.rouge_l_row("police killed the gunman", "police kill the gunman") == pytest.approx(3 / 4)
    assert overlap.rouge_l_row("police killed the gunman", "the gunman kill police") == pytest.approx(2 / 4)
    assert overlap.rouge_l_row("The cat.", "the  CAT") == 1
    assert overlap.rouge_l_row("", "") == 1
    assert overlap.rouge_l_row("cat", "") == 0


def table_length(a: list[str], b: list[str]) -> int:
    """The textbook's table."""
    before = [0] * (len(b) + 1)
    for x in a:
        now = [0]
        for j, y in enumerate(b):
            now.append(before[j] + 1 if x == y else max(before[j + 1], now[j]))
        before = now
    return before[-1]


def test_the_bit_parallel_length_equals_the_table() -> None:
    draw = random.Random(0)
    for _ in range(200):
        a, b = (draw.choices("abcd", k=draw.randrange(90)) for _ in range(2))
        assert overlap.lcs_length(a, b) == table_length(a, b)


def test_long_texts_are_compared_whole() -> None:
    text = [f"{i % 997}" for i in range(20_000)]
    assert overlap.lcs_length(text, text[1:]) == 19_999
