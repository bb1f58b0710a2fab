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
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from ml.evaluate.bootstrap import Floats, Weights, bootstrap_interval
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


def _counts(metric: Any, expected: Sequence[str], got: Sequence[str]) -> NDArray[np.int64]:
    """[N, counts] of each row; both scores are functions of their sums over the rows."""
    return np.array(metric._extract_corpus_statistics(list(got), [list(expected)]), dtype=np.int64)


def _corpus(metric: Any, expected: Sequence[str], got: Sequence[str]) -> WeightedScore:
    """A resample is a weighted sum of the rows' counts."""
    counts = _counts(metric, expected, got)

    def score(weights: Weights) -> float:
        return min(1.0, float(metric._compute_score_from_stats((weights @ counts).tolist()).score) / 100)

    return score


def bleu_scores(expected: Sequence[str], got: Sequence[str]) -> Callable[[Floats], Floats]:
    """`bleu` of many draws at once: weights [N, R] to scores [R], by sacrebleu's formula for its defaults."""
    counts = _counts(BLEU(force=True), expected, got).T.astype(np.float64)

    def score(weights: Floats) -> Floats:
        (n_got, n_expected), right, total = np.split(counts @ weights, [2, 6])  # [2, R], [4, R], [4, R]
        smooth = 2.0 ** np.cumsum((right == 0) & (total > 0), axis=0)
        share = np.where(right > 0, right, 1 / smooth) / np.maximum(total, 1)
        short = np.exp(np.minimum(0.0, 1 - n_expected / np.maximum(n_got, 1)))
        is_some = (right > 0).any(axis=0) & (total > 0).all(axis=0) & (n_got > 0)
        found: Floats = np.minimum(1.0, np.where(is_some, short * np.exp(np.log(share).mean(axis=0)), 0.0))
        return found

    return score


def chrf_scores(expected: Sequence[str], got: Sequence[str]) -> Callable[[Floats], Floats]:
    """`chrf` of many draws at once: weights [N, R] to scores [R], by sacrebleu's formula for its defaults."""
    counts = _counts(CHRF(), expected, got).T.astype(np.float64)

    def score(weights: Floats) -> Floats:
        n_got, n_expected, n_both = ((counts @ weights).reshape(CHRF.CHAR_ORDER, 3, -1)).transpose(1, 0, 2)  # [6, R]
        counted = (n_got > 0) & (n_expected > 0)
        n_orders = np.maximum(1, counted.sum(axis=0))
        precision = np.where(counted, n_both / np.maximum(n_got, 1), 0).sum(axis=0) / n_orders
        recall = np.where(counted, n_both / np.maximum(n_expected, 1), 0).sum(axis=0) / n_orders
        factor = CHRF.BETA**2
        below = factor * precision + recall
        found: Floats = np.divide((1 + factor) * precision * recall, below, out=np.zeros_like(below), where=below > 0)
        return np.minimum(1.0, found)

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
