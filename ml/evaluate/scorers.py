"""Every metric of an evaluation as a function of how often each row counts: value, interval and paired tests share it.

Legend: N rows, L labels. A scorer is made once from the rows and then asked a thousand times with other weights. Where
a row has several right answers, texts are compared with the one that has most words in common with what was given, as
SQuAD does (arXiv 1606.05250). BLEU and chrF are of the corpus; perplexity is exp of the expected tokens' mean NLL; the
calibration error is Guo et al. 2017 (arXiv 1706.04599, section 2) with 15 bins of equal width over the probability of
the chosen label, the labels' own probabilities made to sum to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ml.evaluate import metrics, overlap
from ml.evaluate.answers import Answered, is_right, is_right_number
from ml.evaluate.bootstrap import Floats, Weights

N_BINS = 15
Scorer = Callable[[Weights], float]
ManyScorer = Callable[[Floats], Floats]
"""From weights [N, R] of many draws to the metric of each [R]."""


def scorer(name: str, rows: Sequence[Answered]) -> Scorer:
    """The metric called `name` over `rows`, of which there is at least one."""
    return _SCORERS[name](rows)


def many_scorer(name: str, rows: Sequence[Answered]) -> ManyScorer:
    """The same metric for many draws at once."""
    expected, got = [row.wanted for row in rows], [row.got for row in rows]
    if name in _MANY:
        return _MANY[name](expected, got)
    if name in ROW_MEANS:
        values = np.asarray(row_scores(name, rows))
        return lambda weights: (values @ weights) / np.maximum(1, weights.sum(axis=0))
    one = scorer(name, rows)
    return lambda weights: np.array([one(column.astype(np.int64)) for column in weights.T])


def row_scores(name: str, rows: Sequence[Answered]) -> list[float]:
    """What each row alone contributes to a metric that is a mean of rows, else whether it is right: for filters."""
    if name in _ROW_SCORES:
        return [_ROW_SCORES[name](row) for row in rows]
    return [float(is_right(row, name)) for row in rows]


def probabilities(scores: Sequence[float]) -> Floats:
    """The labels' log probabilities [L] as probabilities that sum to 1."""
    values = np.asarray(scores, dtype=np.float64)
    weights = np.exp(values - values.max())
    shares: Floats = weights / weights.sum()
    return shares


def _mean_of(values: Sequence[float]) -> Scorer:
    array = np.asarray(values, dtype=np.float64)
    return lambda weights: float(weights @ array) / max(1, int(weights.sum()))


def _rows_mean(name: str) -> Callable[[Sequence[Answered]], Scorer]:
    return lambda rows: _mean_of(row_scores(name, rows))


def _macro_f1(rows: Sequence[Answered]) -> Scorer:
    return metrics.macro_f1_score([row.expected for row in rows], [row.got for row in rows])


def _corpus(metric: Callable[[Sequence[str], Sequence[str]], Scorer]) -> Callable[[Sequence[Answered]], Scorer]:
    return lambda rows: metric([row.wanted for row in rows], [row.got for row in rows])


def calibration(rows: Sequence[Answered]) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Of each row with probabilities: its bin, its confidence, and 1 where it is right; rows without are left out."""
    known = [row for row in rows if row.scores]
    confidence = np.array([probabilities(row.scores).max() for row in known], dtype=np.float64)
    right = np.array([row.got == row.expected for row in known], dtype=np.float64)
    place = np.minimum((confidence * N_BINS).astype(np.int64), N_BINS - 1)
    return place, confidence, right


def _ece(rows: Sequence[Answered]) -> Scorer:
    known = np.array([bool(row.scores) for row in rows])
    place, confidence, right = calibration(rows)

    def score(weights: Weights) -> float:
        counted = weights[known]
        gap = np.bincount(place, weights=counted * (confidence - right), minlength=N_BINS)
        return float(np.abs(gap).sum() / max(1, int(counted.sum())))

    return score


def _perplexity(rows: Sequence[Answered]) -> Scorer:
    nll = np.array([row.nll or 0.0 for row in rows])
    n_tokens = np.array([row.n_tokens if row.nll is not None else 0 for row in rows])

    whole = metrics.perplexity(float(nll.sum()) / n_tokens.sum()) if n_tokens.any() else math.inf

    def score(weights: Weights) -> float:
        total = int(weights @ n_tokens)
        return metrics.perplexity(float(weights @ nll) / total) if total else whole

    return score


_ROW_SCORES: Mapping[str, Callable[[Answered], float]] = {
    "accuracy": lambda row: float(row.got == row.expected),
    "numeric": lambda row: float(is_right_number(row)),
    "exact_match": lambda row: float(metrics.exact_match(row.wanted, row.got)),
    "token_f1": lambda row: metrics.token_f1(row.wanted, row.got),
    "rouge_l": lambda row: overlap.rouge_l_row(row.wanted, row.got),
}
ROW_MEANS = frozenset(_ROW_SCORES)
"""Metrics that are the mean of what each row scores alone."""
_MANY: Mapping[str, Callable[[Sequence[str], Sequence[str]], ManyScorer]] = {
    "macro_f1": metrics.macro_f1_scores,
    "bleu": overlap.bleu_scores,
    "chrf": overlap.chrf_scores,
}
_SCORERS: Mapping[str, Callable[[Sequence[Answered]], Scorer]] = {
    **{name: _rows_mean(name) for name in _ROW_SCORES},
    "macro_f1": _macro_f1,
    "bleu": _corpus(overlap.bleu_score),
    "chrf": _corpus(overlap.chrf_score),
    "ece": _ece,
    "perplexity": _perplexity,
}
