"""The draws that all intervals and comparisons of a study share: rows with replacement, and seeds with replacement.

Every cell is scored on the same drawn rows, so what is hard for all cancels out of differences. A technique's value is
the mean over its seeds; drawing rows and seeds independently of each other is the pigeonhole bootstrap (Owen 2007,
arXiv 0712.1111), which errs on the wide side. Deviation: the drawn seeds' distance from their mean is stretched by
√(S / (S - 1)), since two or three seeds drawn with replacement vary too little by that factor (Rao and Wu 1988).
Seeded, by the technique's name where seeds are drawn: the same rows give the same draws in whatever order they come,
and a technique that is added later changes nothing for the others. Legend: N rows, R draws, S seeds.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ml.errors import DataError
from ml.evaluate.answers import Answered
from ml.evaluate.bootstrap import Floats, draw_many
from ml.evaluate.metrics import wilson
from ml.evaluate.scorers import ROW_MEANS, many_scorer, row_scores
from ml.specs.measures import EVALUATION_METRICS

N_DRAWS = 10_000
"""Enough for the smallest p value to survive the correction for all pairs of 16 techniques."""
_AT_ONCE = 2_000_000
"""Numbers in the weights that are held at a time."""
_SEED = 20_071_111


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Every cell's metric on the rows as they are, and on each draw of them. By the cell's key."""

    metric: str
    n_rows: int
    values: Mapping[str, float]
    draws: Mapping[str, Floats]
    """[R] each."""
    scores: Mapping[str, Floats]
    """[N] what each row scores alone; empty for a metric that is no mean of rows."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a technique does: the mean over its seeds."""

    value: float
    draws: Floats
    """[R] over rows and seeds."""
    fixed: Floats
    """[R] over rows alone, with the seeds as they are."""
    scores: Floats
    """[N] the rows' mean scores; empty for a metric that is no mean of rows."""


def aligned(rows: Mapping[str, Sequence[Answered]]) -> dict[str, list[Answered]]:
    """The rows that all cells answered, in one order that does not depend on theirs.

    A row is known by its number and expected answer, and its turn among those that share both. Raises DataError when
    no row is common to all.
    """
    named = {key: _named(answered) for key, answered in rows.items()}
    common = set.intersection(*(set(found) for found in named.values())) if named else set()
    if named and not common:
        raise DataError("The cells have no test row in common.", hint="Start the study anew: its data set has changed.")
    order = sorted(common)
    return {key: [found[name] for name in order] for key, found in named.items()}


def _named(rows: Sequence[Answered]) -> dict[tuple[int, str, int], Answered]:
    found: dict[tuple[int, str, int], Answered] = {}
    turns: dict[tuple[int, str], int] = {}
    for row in rows:
        turn = turns[(row.row, row.expected)] = turns.get((row.row, row.expected), -1) + 1
        found[(row.row, row.expected, turn)] = row
    return found


def draw(metric: str, rows: Mapping[str, Sequence[Answered]]) -> Drawn:
    """Scores every cell on `N_DRAWS` draws of the rows, the same ones for all. `rows` are aligned, and at least one."""
    n_rows = len(next(iter(rows.values()))) if rows else 0
    is_mean = metric in ROW_MEANS
    scores = {key: np.array(row_scores(metric, answered)) for key, answered in rows.items()} if is_mean else {}
    draws = {key: np.empty(N_DRAWS) for key in rows}
    many = {} if is_mean else {key: many_scorer(metric, answered) for key, answered in rows.items()}
    stacked = np.stack(list(scores.values())) if scores else np.empty((0, n_rows))  # [cells, N]
    for here, weights in _weights(n_rows) if rows else ():
        if is_mean:
            for key, values in zip(rows, stacked @ weights / n_rows, strict=True):
                draws[key][here] = values
        for key, score in many.items():
            draws[key][here] = score(weights)
    once = np.ones((n_rows, 1))
    values = {key: float(score(once)[0]) for key, score in many.items()}
    values |= {key: float(found.mean()) for key, found in scores.items()}
    return Drawn(metric=metric, n_rows=n_rows, values=values, draws=draws, scores=scores)


def _weights(n_rows: int) -> Iterator[tuple[slice, Floats]]:
    """How often each row counts [N, r], for some draws at a time."""
    generator = np.random.default_rng(_SEED)
    step = max(1, _AT_ONCE // n_rows)
    for start in range(0, N_DRAWS, step):
        here = slice(start, min(N_DRAWS, start + step))
        yield here, draw_many(generator, n_rows, here.stop - here.start)


def standing(drawn: Drawn, technique: str, keys: Sequence[str]) -> Standing:
    """The technique whose seeds are the cells `keys`, at least one."""
    by_seed = np.stack([drawn.draws[key] for key in keys])  # [S, R]
    scores = [drawn.scores[key] for key in keys if key in drawn.scores]
    return Standing(
        value=float(np.mean([drawn.values[key] for key in keys])), draws=_over_seeds(technique, by_seed),
        fixed=by_seed.mean(axis=0), scores=np.mean(scores, axis=0) if scores else np.empty(0),
    )  # fmt: skip


def _over_seeds(technique: str, by_seed: Floats) -> Floats:
    n_seeds = len(by_seed)
    middle: Floats = by_seed.mean(axis=0)
    if n_seeds == 1:
        return middle
    generator = np.random.default_rng([_SEED, zlib.crc32(technique.encode())])
    picked = generator.integers(n_seeds, size=by_seed.shape)
    moved = np.take_along_axis(by_seed, picked, axis=0).mean(axis=0)
    stretched: Floats = middle + math.sqrt(n_seeds / (n_seeds - 1)) * (moved - middle)
    return stretched


def interval(drawn: Drawn, found: Standing, *, n_seeds: int) -> list[float]:
    """95 % interval of a technique's value, for metrics that are shares of 1.

    Wilson's for one seed whose rows are right or wrong, and wherever all rows are right or all wrong, which no draw can
    change; else the percentiles, widened where needed to hold the value.
    """
    n_rows, value = drawn.n_rows, found.value
    if n_rows < 2:
        return [0.0, 1.0]
    is_alike = drawn.metric in ROW_MEANS and value in (0, 1)
    if is_alike or (EVALUATION_METRICS[drawn.metric].is_right_or_wrong and n_seeds == 1):
        return list(wilson(round(value * n_rows), n_rows))
    low, high = np.quantile(found.draws, (0.025, 0.975))
    return [max(0.0, min(float(low), value)), min(1.0, max(float(high), value))]


def flipped(differences: Floats) -> list[float]:
    """Two-sided p values of paired rows' differences [P, N]: how often their sum is as large when each row's sign is
    thrown like a coin (Fisher 1935). For rows that are right or wrong this is McNemar's exact test."""
    n_pairs, n_rows = differences.shape
    generator = np.random.default_rng([_SEED, n_rows])
    observed = np.abs(differences.sum(axis=1)) - 1e-9
    beyond = np.zeros(n_pairs)
    step = max(1, _AT_ONCE // max(1, n_rows))
    for start in range(0, N_DRAWS, step):
        n_draws = min(step, N_DRAWS - start)
        signs = generator.integers(2, size=(n_rows, n_draws), dtype=np.int8) * 2.0 - 1.0
        beyond += (np.abs(differences @ signs) >= observed[:, None]).sum(axis=1)
    return [float(p) for p in (beyond + 1) / (N_DRAWS + 1)]
