"""Metrics of many draws at once: what each draw alone would score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.evaluate.answers import Answered
from ml.evaluate.bootstrap import draw_many
from ml.evaluate.scorers import ROW_MEANS, many_scorer, scorer
from ml.specs.measures import EVALUATION_METRICS

WORDS = ("the", "cat", "sat", "on", "a", "mat", ",", "and", "12", "went", "home")
TEXTS = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
SHARES = [metric.name for metric in EVALUATION_METRICS.values() if metric.is_share]


def rows_of(pairs: list[tuple[str, str]]) -> list[Answered]:
    return [Answered(row=i, expected=expected, got=got, scores=(-0.1, -2.4)) for i, (expected, got) in enumerate(pairs)]


@pytest.mark.parametrize("name", SHARES)
@settings(max_examples=30, deadline=None)
@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=12))
def test_many_draws_score_what_each_scores_alone(name: str, pairs: list[tuple[str, str]]) -> None:
    rows = rows_of(pairs)
    weights = draw_many(np.random.default_rng(3), len(rows), 8)  # [N, R]
    alone = [scorer(name, rows)(column.astype(np.int64)) for column in weights.T]
    assert many_scorer(name, rows)(weights) == pytest.approx(alone, abs=1e-12)


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("got", ["", "one"])
def test_rows_without_any_text_are_scored(name: str, got: str) -> None:
    rows = rows_of([("", got), ("", got)])
    weights = np.array([[1.0, 2.0], [1.0, 0.0]])
    alone = [scorer(name, rows)(column.astype(np.int64)) for column in weights.T]
    assert many_scorer(name, rows)(weights) == pytest.approx(alone)


def test_a_mean_of_rows_is_known_as_one() -> None:
    assert frozenset({"accuracy", "numeric", "exact_match", "token_f1", "rouge_l"}) == ROW_MEANS


def test_every_draw_has_as_many_rows_as_there_are() -> None:
    weights = draw_many(np.random.default_rng(0), 7, 500)
    assert weights.shape == (7, 500)
    assert set(weights.sum(axis=0)) == {7}
    assert weights.mean(axis=1) == pytest.approx(np.ones(7), abs=0.2)
