"""The metrics of an evaluation as a table: which task each fits, what it needs, and why another is refused.

Forms, API, the evaluation's own process and the pages iterate it. Standard library only; how each is computed is in
ml/evaluate/scorers.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ml.errors import SpecError

_NUMBER = re.compile(r"[$€£]?\s?-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)\s?[%€]?\.?")
Needs = Literal["labels", "probabilities", "text", "numbers", "likelihood"]


@dataclass(frozen=True, kw_only=True)
class EvaluationMetric:
    name: str
    label: str
    task: Literal["classification", "generation"]
    needs: Needs
    is_right_or_wrong: bool = False
    """Each row is right or wrong, so two subjects are compared by McNemar's test as well."""
    is_better_high: bool = True
    is_share: bool = True
    """Between 0 and 1."""


_ROWS = (
    EvaluationMetric(
        name="accuracy", label="Accuracy", task="classification", needs="labels", is_right_or_wrong=True
    ),
    EvaluationMetric(name="macro_f1", label="Macro F1", task="classification", needs="labels"),
    EvaluationMetric(
        name="numeric", label="Numeric answer", task="generation", needs="numbers", is_right_or_wrong=True
    ),
    EvaluationMetric(name="token_f1", label="Token F1", task="generation", needs="text"),
    EvaluationMetric(name="exact_match", label="Exact match", task="generation", needs="text", is_right_or_wrong=True),
    EvaluationMetric(name="chrf", label="chrF", task="generation", needs="text"),
    EvaluationMetric(name="rouge_l", label="ROUGE-L", task="generation", needs="text"),
    EvaluationMetric(name="bleu", label="BLEU", task="generation", needs="text"),
    EvaluationMetric(
        name="ece", label="Calibration error", task="classification", needs="probabilities", is_better_high=False
    ),
    EvaluationMetric(
        name="perplexity", label="Perplexity", task="generation", needs="likelihood", is_better_high=False,
        is_share=False,
    ),
)  # fmt: skip
EVALUATION_METRICS: Mapping[str, EvaluationMetric] = {row.name: row for row in _ROWS}
"""In the order in which they head an evaluation: the first that was measured is its main figure."""


def why_not_measured(name: str, *, task: str, is_scored: bool, has_numbers: bool) -> str:
    """Why a metric does not fit; "" when it does. `is_scored`: the engine gives log probabilities for this subject.
    `has_numbers`: every expected answer ends in a number."""
    metric = EVALUATION_METRICS[name]
    kind = "classification" if task == "classification" else "generation"
    if metric.task != kind:
        wanted, given = ("labels", "texts") if metric.task == "classification" else ("texts", "labels")
        return f"{metric.label} compares {wanted}, and the answers of this data set are {given}."
    if metric.needs == "probabilities" and not is_scored:
        return f"{metric.label} needs the probability of every label, and this subject writes before it answers."
    if metric.needs == "likelihood" and not is_scored:
        return (
            f"{metric.label} needs one likelihood of the expected answer, and this subject writes steps first or votes."
        )
    if metric.needs == "numbers" and not has_numbers:
        return f"{metric.label} needs a number in every expected answer, and some here have none."
    return ""


def check_measures(names: Sequence[str], *, task: str, is_scored: bool, has_numbers: bool) -> list[str]:
    """The metrics asked for in the table's order, or all that fit when none is named. Raises SpecError."""
    unknown = [name for name in names if name not in EVALUATION_METRICS]
    if unknown:
        raise SpecError(
            f"Unknown metric {str(unknown[0])[:60]!r}.",
            hint=f"There is: {', '.join(EVALUATION_METRICS)}.",
            field="metrics",
        )
    reasons = {
        name: why_not_measured(name, task=task, is_scored=is_scored, has_numbers=has_numbers)
        for name in EVALUATION_METRICS
    }
    for name in names:
        if reasons[name]:
            fitting = ", ".join(other for other, reason in reasons.items() if not reason)
            raise SpecError(reasons[name], hint=f"These fit: {fitting}.", field="metrics")
    return [name for name, reason in reasons.items() if not reason and (not names or name in names)]


def has_number(text: str) -> bool:
    """Whether an expected answer is a number, or ends in one after `####` as GSM8K's do."""
    return bool(_NUMBER.fullmatch(text.rpartition("####")[2].strip()))
