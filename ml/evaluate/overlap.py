"""How much a generated text has in common with the expected one: ROUGE-L, BLEU, chrF. One reference a row.

All are shares of 1, each with its 95 % bootstrap interval. BLEU and chrF are sacrebleu's (÷ 100), with its defaults, so
that they compare with published figures: BLEU 13a tokens, mixed case, exponential smoothing, no effective order, so
that answers all shorter than four tokens score 0; chrF of character 1- to 6-grams, β = 2. Both are of the corpus, not
the mean of rows. ROUGE-L is the mean of the rows' F with β = 1, on normalized words: sentence level, no stemming.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from ml.evaluate.bootstrap import Weights, bootstrap_interval
from ml.evaluate.metrics import normalized

Scored = tuple[float, tuple[float, float]]
"""A score and its 95 % interval."""
WeightedScore = Callable[[Weights], float]
"""A score as a function of how often each row counts."""
Score = Callable[[Sequence[str], Sequence[str]], Scored]
"""Of the expected texts and those got, row by row."""


def bleu(expected: Sequence[str], got: Sequence[str]) -> Scored:
    """Corpus BLEU (Papineni et al. 2002) as sacrebleu computes it (Post 2018, arXiv 1804.08771), from 0 to 1."""
    return _with_interval(bleu_score, expected, got)


def chrf(expected: Sequence[str], got: Sequence[str]) -> Scored:
    """Corpus chrF2 (Popović 2015) as sacrebleu computes it, from 0 to 1."""
    return _with_interval(chrf_score, expected, got)


def bleu_score(expected: Sequence[str], got: Sequence[str]) -> WeightedScore:
    """`bleu` of at least one row as a function of how often each row counts."""
    return _corpus(BLEU(force=True), expected, got)


def chrf_score(expected: Sequence[str], got: Sequence[str]) -> WeightedScore:
    """`chrf` of at least one row as a function of how often each row counts."""
    return _corpus(CHRF(), expected, got)


def _corpus(metric: Any, expected: Sequence[str], got: Sequence[str]) -> WeightedScore:
    """Both scores are functions of counts summed over the rows, so a resample is a weighted sum of the counts."""
    counts = np.array(metric._extract_corpus_statistics(list(got), [list(expected)]), dtype=np.int64)  # [N, counts]

    def score(weights: Weights) -> float:
        return min(1.0, float(metric._compute_score_from_stats((weights @ counts).tolist()).score) / 100)

    return score


def _with_interval(
    make: Callable[[Sequence[str], Sequence[str]], WeightedScore], expected: Sequence[str], got: Sequence[str]
) -> Scored:
    if not expected:
        return 0.0, (0.0, 1.0)
    score = make(expected, got)
    return score(np.ones(len(expected), dtype=np.int64)), bootstrap_interval(score, len(expected))


def rouge_l(expected: Sequence[str], got: Sequence[str]) -> Scored:
    """Mean of the rows' ROUGE-L F, from 0 to 1."""
    if not expected:
        return 0.0, (0.0, 1.0)
    values = np.array([rouge_l_row(a, b) for a, b in zip(expected, got, strict=True)])  # [N]

    def score(weights: Weights) -> float:
        return float(weights @ values) / len(values)

    return float(values.mean()), bootstrap_interval(score, len(values))


def rouge_l_row(expected: str, got: str) -> float:
    """F of the longest common subsequence of words (Lin 2004, section 3.1, β = 1); two empty texts agree."""
    a, b = normalized(expected).split(), normalized(got).split()
    if not a or not b:
        return float(a == b)
    return 2 * lcs_length(a, b) / (len(a) + len(b))


def lcs_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    Bit-parallel (Hyyrö 2004): one row of the table is one whole number of len(a) bits, whose zeros count the length, so
    len(b) steps of len(a)/64 machine words each.
    """
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | (1 << i)
    everything = (1 << len(a)) - 1
    row = everything
    for word in b:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & everything
    return len(a) - row.bit_count()
