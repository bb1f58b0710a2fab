"""Two evaluations on the same rows: differences with intervals, disagreements, and what a promotion is judged by.

The comparisons were computed when the younger one was published (jobs/evaluation.py). Reads only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.core.paginator import Paginator
from django.db.models import F, OuterRef, Q, Subquery

from ml.errors import NotFoundError
from ml.specs.measures import EVALUATION_METRICS
from webapp.models import AdapterVersion, Evaluation, EvaluationComparison, EvaluationRow, PromptVersion, Team
from webapp.selectors.evaluation_rows import (
    ROWS_A_PAGE,
    SHOWN_CHARACTERS,
    RowsPage,
    answered_row,
    lines_of,
    without_shared,
)
from webapp.selectors.metrics import METRICS, Metric
from webapp.selectors.targets import base_of

Version = AdapterVersion | PromptVersion


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of a pair, `left` minus `right`."""

    name: str
    metric: Metric
    left: float | None
    right: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    mcnemar: Mapping[str, Any] | None
    is_better_high: bool

    @property
    def says(self) -> str:
        """`left`, `right` or `tied`: which is better for certain."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "tied"
        return "left" if (self.low > 0) == self.is_better_high else "right"

    @property
    def scale(self) -> float:
        return 100.0 if self.metric.is_share else 1.0


@dataclass(frozen=True, kw_only=True)
class Pair:
    left: Evaluation
    right: Evaluation
    n_rows: int
    differences: list[Difference]


def comparisons_with(evaluation: Evaluation) -> list[Pair]:
    """Every pair that it is one of, itself on the left, the newest other first."""
    found = EvaluationComparison.objects.filter(Q(a=evaluation) | Q(b=evaluation)).select_related(
        *(f"{side}__{name}" for side in "ab" for name in ("run", "dataset_version__dataset", "adapter_version__adapter",
                                                          "prompt_version__prompt", "team"))
    )  # fmt: skip
    pairs = [_pair_of(row, is_turned=row.b_id == evaluation.pk) for row in found]
    return sorted(pairs, key=lambda pair: -pair.right.pk)


def pair_of(*, team: Team, left: int, right: int) -> Pair:
    """Raises NotFoundError where the two were never compared: other rows, or not both done."""
    row = (
        EvaluationComparison.objects.for_team(team)
        .filter(Q(a_id=left, b_id=right) | Q(a_id=right, b_id=left))
        .select_related("a__dataset_version__dataset", "b__dataset_version__dataset", "a__team", "b__team")
        .first()
    )
    if row is None:
        raise NotFoundError(
            f"Evaluations {left} and {right} cannot be compared.",
            hint="Two evaluations are compared when both are done and share rows of one split of one data set version.",
        )
    return _pair_of(row, is_turned=row.b_id == left)


def _pair_of(row: EvaluationComparison, *, is_turned: bool) -> Pair:
    left, right = (row.b, row.a) if is_turned else (row.a, row.b)
    differences = [_difference(name, found, is_turned=is_turned) for name, found in row.metrics.items()
                   if name in METRICS]  # fmt: skip
    return Pair(left=left, right=right, n_rows=row.n_rows, differences=differences)


def _difference(name: str, found: Mapping[str, Any], *, is_turned: bool) -> Difference:
    low, high = found["low"], found["high"]
    mcnemar = found.get("mcnemar")
    values = {"left": found["a"], "right": found["b"], "difference": found["difference"], "low": low, "high": high}
    if is_turned:
        turned = [None if x is None else -x for x in (found["difference"], high, low)]
        values = {"left": found["b"], "right": found["a"],
                  **dict(zip(("difference", "low", "high"), turned, strict=True))}  # fmt: skip
    if mcnemar:
        a, b = mcnemar["only_a"], mcnemar["only_b"]
        mcnemar = {"only_left": b if is_turned else a, "only_right": a if is_turned else b, "p": mcnemar["p"]}
    return Difference(name=name, metric=METRICS[name], p=found["p"], mcnemar=mcnemar,
                      is_better_high=EVALUATION_METRICS[name].is_better_high, **values)  # fmt: skip


DISAGREEMENTS = {"left": "Better on the left", "right": "Better on the right", "both": "Wrong on both"}


def disagreements(pair: Pair, given: Mapping[str, str]) -> RowsPage:
    """The rows of both, narrowed to those where one has the better score, or where both are wrong."""
    others = EvaluationRow.objects.filter(evaluation=pair.right, row=OuterRef("row"))
    rows = EvaluationRow.objects.filter(evaluation=pair.left).annotate(
        other_score=Subquery(others.values("score")[:1]), other_right=Subquery(others.values("is_right")[:1]),
        other_pk=Subquery(others.values("pk")[:1]),
    ).filter(other_pk__isnull=False)  # fmt: skip
    show = given.get("show", "left")
    conditions = {
        "left": Q(score__gt=F("other_score")), "right": Q(score__lt=F("other_score")),
        "both": Q(is_right=False, other_right=False),
    }  # fmt: skip
    kept = {"show": show} if show in conditions else {}
    rows = rows.filter(conditions[show]) if kept else rows
    page = Paginator(rows, ROWS_A_PAGE).get_page(given.get("page"))
    indexed = EvaluationRow.objects.in_bulk([row.other_pk for row in page.object_list])
    mine = without_shared(lines_of(pair.left, page.object_list))
    theirs = lines_of(pair.right, [indexed[row.other_pk] for row in page.object_list])
    shown = [
        answered_row(index, line, other_got=str(other.get("text") or other["got"])[:SHOWN_CHARACTERS],
                  other_is_right=index.other_right)
        for index, line, other in zip(page.object_list, mine, theirs, strict=True)
    ]  # fmt: skip
    return RowsPage(page=page, rows=shown, kept=kept)


def newest_pair(version: Version, incumbent: Version) -> Pair | None:
    """The newest comparison of two versions by themselves, each on its own base model, on held-out rows; the test split
    before validation."""
    column, other = ("adapter", "prompt") if isinstance(version, AdapterVersion) else ("prompt", "adapter")
    alone = {f"{side}__{other}_version__isnull": True for side in "ab"}

    def of(a: Version, b: Version) -> Q:
        sides = {"a": a, "b": b}
        return Q(**{f"{side}__{column}_version": one for side, one in sides.items()},
                 **{f"{side}__base_name": base_of(one) for side, one in sides.items()})  # fmt: skip

    rows = EvaluationComparison.objects.filter(
        of(version, incumbent) | of(incumbent, version), team=version.team, **alone
    ).exclude(a__split="train")
    if column == "adapter":
        rows = rows.filter(a__collection_name="", b__collection_name="")
    rows = rows.select_related("a__dataset_version__dataset", "b__dataset_version__dataset")
    row = rows.order_by("a__split", "-pk").first()
    return _pair_of(row, is_turned=getattr(row.b, f"{column}_version_id") == version.pk) if row else None
