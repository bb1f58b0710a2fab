"""Reads of evaluations: lists, one with its figures, its cost and its confusion matrix.

Answered rows: selectors/evaluation_rows.py. Two on the same rows: selectors/evaluation_pairs.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import FloatField, QuerySet
from django.db.models.fields.json import KT
from django.db.models.functions import Cast

from ml.errors import NotFoundError
from ml.specs.measures import EVALUATION_METRICS
from webapp.models import AdapterVersion, Evaluation, PromptVersion, Run, Team
from webapp.selectors.metrics import METRICS, Measure, Metric


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One metric with its interval; on its own scale where it is no share."""

    metric: Metric
    measure: Measure | None
    """None where it is no share of 1."""
    value: float | None
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        return "–" if self.value is None else self.metric.text(self.value)

    @property
    def interval(self) -> str:
        if self.low is None or self.high is None:
            return ""
        return f"[{self.metric.text(self.low)}, {self.metric.text(self.high)}]".replace(" %", "")


def list_of(team: Team) -> QuerySet[Evaluation]:
    return Evaluation.objects.for_team(team).select_related(
        "run", "dataset_version__dataset", "adapter_version__adapter", "prompt_version__prompt", "created_by"
    )


def sortable_list(team: Team) -> QuerySet[Evaluation]:
    """With the main metric's value as `headline`."""
    return list_of(team).annotate(headline=Cast(KT("figures__headline"), FloatField()))


def evaluation_of(*, team: Team, pk: int) -> Evaluation:
    """The team's evaluation. Raises NotFoundError."""
    found = list_of(team).select_related("collection").filter(pk=pk).first()
    if found is None:
        raise NotFoundError(f"There is no evaluation {pk} in this team.", hint="Look at the list of evaluations.")
    return found


def evaluations_of(version: AdapterVersion | PromptVersion) -> list[Evaluation]:
    """What was measured of a version, alone or with others, the newest first; those that failed are left out."""
    column = "adapter_version" if isinstance(version, AdapterVersion) else "prompt_version"
    rows = list_of(version.team).filter(**{column: version}).exclude(
        run__state__in=(Run.State.FAILED, Run.State.CANCELLED)
    )  # fmt: skip
    return list(rows[:20])


def _pair(intervals: Mapping[str, Any], name: str) -> tuple[float | None, float | None]:
    found = intervals.get(name)
    return (found[0], found[1]) if isinstance(found, list) and len(found) == 2 else (None, None)


def figure(evaluation: Evaluation, name: str = "") -> Figure | None:
    """A metric of it, by default the main one; None where it was not measured."""
    name = name or evaluation.main_metric
    if name not in evaluation.metrics or name not in METRICS:
        return None
    value, (low, high) = evaluation.metrics[name], _pair(evaluation.intervals, name)
    measure = None
    if value is not None and EVALUATION_METRICS[name].is_share:
        has = low is not None and high is not None
        measure = Measure(name=name, value=value, low=low if has else value, high=high if has else value,  # type: ignore[arg-type]
                          has_interval=has, n_rows=evaluation.n_rows)  # fmt: skip
    return Figure(metric=METRICS[name], measure=measure, value=value, low=low, high=high)


def figures_of(version: AdapterVersion | PromptVersion) -> list[dict[str, Any]]:
    """A version's evaluations with their main figures, for its page."""
    return [{"evaluation": found, "figure": figure(found)} for found in evaluations_of(version)]


def figures(evaluation: Evaluation) -> list[Figure]:
    return [found for name in evaluation.metrics if (found := figure(evaluation, name))]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a thousand such requests cost at the team's prices."""

    currency: str
    per_thousand: float


def cost_of(evaluation: Evaluation) -> Cost | None:
    """None while the team has set no prices, or nothing was counted. Virtual tokens are not read: they are free."""
    prices, known = evaluation.team.prices, evaluation.figures
    if not prices or known.get("tokens_in") is None or known.get("tokens_out") is None:
        return None
    total = known["tokens_in"] * prices["tokens_in"] + known["tokens_out"] * prices["tokens_out"]
    return Cost(currency=prices["currency"], per_thousand=total / 1000)


@dataclass(frozen=True, kw_only=True)
class Cell:
    n: int
    share: float
    """Of its row."""
    is_right: bool
    expected: int
    got: int


@dataclass(frozen=True, kw_only=True)
class Confusion:
    labels: list[str]
    rows: list[tuple[str, list[Cell]]]
    """Expected labels with their cells; the last cell counts answers that were no label, where there are any."""
    has_unread: bool
    worst: list[tuple[str, str, Cell]]
    """(expected, got, cell) of the most frequent confusions."""


MOST_SHOWN_LABELS = 30


def confusion_of(evaluation: Evaluation) -> Confusion | None:
    """None for texts. With more than `MOST_SHOWN_LABELS` labels no table, only the worst cells."""
    cells = evaluation.figures.get("confusion")
    labels = evaluation.dataset_version.labels or []
    if not cells or not labels:
        return None
    counts = {(expected, got): n for expected, got, n in cells}
    totals: dict[int, int] = {}
    for (expected, _), n in counts.items():
        totals[expected] = totals.get(expected, 0) + n
    has_unread = any(got < 0 for _, got in counts)
    columns = [*range(len(labels)), *([-1] if has_unread else [])]

    def cell(expected: int, got: int) -> Cell:
        n = counts.get((expected, got), 0)
        return Cell(
            n=n, share=n / max(1, totals.get(expected, 0)), is_right=expected == got, expected=expected, got=got
        )

    wrong = sorted((-n, expected, got) for (expected, got), n in counts.items() if expected != got)
    worst = [(labels[e], labels[g] if g >= 0 else "", cell(e, g)) for _, e, g in wrong[:8]]
    is_small = len(labels) <= MOST_SHOWN_LABELS
    rows = [(labels[e], [cell(e, g) for g in columns]) for e in range(len(labels))] if is_small else []
    return Confusion(labels=list(labels), rows=rows, has_unread=has_unread, worst=worst)
