"""How long each technique of a study being typed will take and how much memory, as an engine plans it.

The web does not compute it: it asks (jobs/planner.py, ml/study/planning.py) with what the data set's report knows of
its rows. Nothing here raises: without an answer there is a sentence that says why. What earlier studies of the team on
the same base model really took corrects the times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs import stream
from ml.errors import ColdframeError, UnavailableError
from ml.specs.study import TECHNIQUES, StudySpec, Technique
from webapp.models import DatasetVersion, Study, StudyEntry, Team
from webapp.selectors.run_memory import BUSY, NO_ENGINE, TIMEOUT_S, WORDS

CHARACTERS_A_TOKEN = 4
STUDIES_LOOKED_AT = 5
_LOOKS = {"fits": "cf-ok", "tight": "cf-tight", "does_not_fit": "cf-no"}


@dataclass(frozen=True, kw_only=True)
class TechniquePlan:
    technique: Technique
    total_s: float
    """Search, every seed, smaller shares, measuring."""
    is_chosen: bool
    """Whether it fits what the cheaper ones leave of the budget."""
    peak_bytes: int = 0
    """Of its training; 0 where nothing is trained."""
    word: str = ""
    look: str = ""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """`problem` alone when there is no plan."""

    problem: str = ""
    is_busy: bool = False
    """The plan may be there in a moment."""
    techniques: list[TechniquePlan] = field(default_factory=list)
    total_s: float = 0.0
    """Of those that fit."""
    budget_s: float = 0.0

    @property
    def n_chosen(self) -> int:
        return sum(one.is_chosen for one in self.techniques)

    @property
    def left_out(self) -> list[TechniquePlan]:
        return [one for one in self.techniques if not one.is_chosen]


def plan_of_study(*, team: Team, version: DatasetVersion | None, spec: StudySpec | None) -> StudyPlan:
    """The plan of a checked spec."""
    if version is None or spec is None:
        return StudyPlan(problem="Time and memory are planned once nothing is left to mend.")
    payload = {
        "study": spec.as_dict(), "task": version.task, "rows": rows_of(version), "longest": _longest(version),
        "n_labels": len(version.labels or ()), "calibration": calibration(team=team, base=spec.base),
    }  # fmt: skip
    try:
        if not stream.engines():
            return StudyPlan(problem=NO_ENGINE)
        said = stream.call_service("plan", payload, TIMEOUT_S)
    except UnavailableError:
        return StudyPlan(problem=BUSY.replace("the memory ", ""), is_busy=True)
    except ColdframeError as error:
        return StudyPlan(problem=f"{error.message} {error.hint}".strip())
    return StudyPlan(
        techniques=[_technique(one) for one in said["techniques"]], total_s=float(said["total_s"]),
        budget_s=float(said["budget_s"]),
    )  # fmt: skip


def _technique(said: Mapping[str, Any]) -> TechniquePlan:
    verdict = str(said.get("verdict") or "")
    return TechniquePlan(
        technique=TECHNIQUES[str(said["technique"])], total_s=float(said["total_s"]),
        is_chosen=bool(said["is_chosen"]), peak_bytes=int(said.get("peak") or 0), word=WORDS.get(verdict, ""),
        look=_LOOKS.get(verdict, ""), problem=str(said.get("problem") or ""),
    )  # fmt: skip


def rows_of(version: DatasetVersion) -> dict[str, Any]:
    """What the report knows of the rows: fields of ml.study.estimate.Rows. Tokens of answers go by their characters."""
    labels = [str(label) for label in version.labels or ()]
    label_tokens = sum(_tokens(label) for label in labels)
    samples = [str(row.get("completion", "")) for row in version.stats.get("samples") or ()]
    answers = [_tokens(text) for text in samples] or [_tokens("")]
    return {
        "n_tokens": _typical(version), "n_targets": sum(answers) / len(answers), "label_tokens": label_tokens,
        "n_train": _n(version, "train"), "n_valid": _n(version, "validation"), "n_test": _n(version, "test"),
    }  # fmt: skip


def _n(version: DatasetVersion, split: str) -> int:
    return int(version.splits.get(split) or 0)


def _tokens(text: str) -> int:
    """About as many tokens as a text has, its end of turn included."""
    return 1 + -(-len(text) // CHARACTERS_A_TOKEN)


def _typical(version: DatasetVersion) -> float:
    tokens = version.stats.get("tokens") or {}
    characters = version.stats.get("characters") or {}
    return float(tokens.get("median") or characters.get("median", 400) / CHARACTERS_A_TOKEN)


def _longest(version: DatasetVersion) -> int | None:
    longest = (version.stats.get("tokens") or {}).get("longest")
    return int(longest) if longest else None


def calibration(*, team: Team, base: str) -> float:
    """Seconds that the cells of the team's last studies on this base model took ÷ those that were expected; 1 where
    there are none."""
    studies = Study.objects.for_team(team).filter(base_name=base).exclude(results="").order_by("-pk")
    expected = real = 0.0
    for study in studies[:STUDIES_LOOKED_AT]:
        known = {one["technique"]: one for one in study.planned.get("techniques") or ()}
        first = (study.spec.get("seeds") or [None])[0]
        done = StudyEntry.objects.filter(study=study, state="done", share=1, technique__in=known)
        for technique, seed, summary in done.values_list("technique", "seed", "summary"):
            cost = known[technique]
            searched = float(cost["search_s"]) if seed == first else 0.0
            expected += searched + float(cost["train_s"]) + float(cost["measure_s"])
            real += float(summary.get("seconds") or 0)
    return round(real / expected, 3) if expected and real else 1.0
