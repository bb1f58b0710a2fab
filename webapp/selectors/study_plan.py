"""How long each technique of a study being typed will take and how much memory, as an engine plans it.

The web does not compute it: it asks (jobs/planner.py, ml/study/planning.py) with the sample of rows and the lengths
that the data set's report keeps. Nothing here raises: without an answer there is a sentence that says why. What earlier
studies of the team on the same base model really took corrects the times, by technique.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from jobs import stream
from ml.errors import ColdframeError, UnavailableError
from ml.specs.study import TECHNIQUES, StudySpec, Technique
from webapp.models import Collection, DatasetVersion, Study, StudyEntry, Team
from webapp.selectors.collections import some_chunks
from webapp.selectors.dataset_rows import rows_of
from webapp.selectors.run_memory import BUSY, NO_ENGINE, TIMEOUT_S, WORDS

STUDIES_LOOKED_AT = 5
LEAST_FACTOR, MOST_FACTOR = 0.2, 5.0
"""What lies beyond is no property of the machine."""
N_SAMPLED = 20
_LOOKS = {"fits": "cf-ok", "tight": "cf-tight", "does_not_fit": "cf-no"}


@dataclass(frozen=True, kw_only=True)
class TechniquePlan:
    technique: Technique
    total_s: float
    """Search, every seed, smaller shares, measuring."""
    is_chosen: bool
    """Whether it fits what the cheaper ones leave of the budget."""
    peak_bytes: int = 0
    """Of its training, or of asking the model; 0 where it is not known."""
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
        "study": spec.as_dict(), "task": version.task,
        "data": data_of(version, spec.base) | _passages(team, spec.collection),
        "calibration": calibration(team=team, base=spec.base),
    }  # fmt: skip
    try:
        if not stream.serving("", stream.engines()):
            return StudyPlan(problem=NO_ENGINE)
        said = stream.call_service("plan", payload, TIMEOUT_S)
    except UnavailableError:
        return StudyPlan(problem=BUSY.replace("the memory ", ""), is_busy=True)
    except ColdframeError as error:
        return StudyPlan(problem=f"{error.message} {error.hint}".strip())
    if said["n_done"] < said["n_all"]:
        return StudyPlan(problem=f"Planning: {said['n_done']} of {said['n_all']} techniques …", is_busy=True)
    return StudyPlan(
        techniques=[_technique(one) for one in said["techniques"]], total_s=float(said["total_s"]),
        budget_s=float(said["budget_s"]),
    )  # fmt: skip


def _technique(said: Mapping[str, Any]) -> TechniquePlan:
    verdict = str(said.get("verdict") or "")
    return TechniquePlan(
        technique=TECHNIQUES[str(said["technique"])], total_s=float(said["total_s"]),
        is_chosen=bool(said["is_chosen"]), peak_bytes=int(said.get("peak_bytes") or 0), word=WORDS.get(verdict, ""),
        look=_LOOKS.get(verdict, ""), problem=str(said.get("problem") or ""),
    )  # fmt: skip


def data_of(version: DatasetVersion, base: str) -> dict[str, Any]:
    """What is known of a version's rows, as ml/study/planning.py asks for it."""
    sample = version.stats.get("samples") or list(islice(rows_of(version, "train"), N_SAMPLED))
    return {
        "n_rows": dict(version.splits), "labels": [str(label) for label in version.labels or ()],
        "mapping": dict(version.mapping or {}), "lengths": _lengths(version, base),
        "sample": [{"messages": row["messages"], "completion": row["completion"]} for row in sample[:N_SAMPLED]],
    }  # fmt: skip


def _passages(team: Team, name: str) -> dict[str, list[str]]:
    """As many as retrieval puts in front of a row."""
    collection = Collection.objects.for_team(team).filter(name=name).first() if name else None
    return {"passages": some_chunks(collection, collection.top_k)} if collection else {}


def _lengths(version: DatasetVersion, base: str) -> dict[str, Any]:
    """Mean and longest of all rows: in tokens where they were counted for this base model, else in characters."""
    tokens = version.stats.get("tokens") or {}
    found = tokens if tokens.get("base") == base else version.stats.get("characters") or {}
    bars, step = found.get("bars") or [], found.get("step") or 1
    if not sum(bars):
        return {}
    middle = [min((place + 0.5) * step, found["longest"]) for place in range(len(bars))]
    mean = sum(n * at for n, at in zip(bars, middle, strict=True)) / sum(bars)
    unit = "tokens" if found is tokens else "characters"
    return {"unit": unit, "mean": round(mean, 1), "longest": int(found["longest"])}


def calibration(*, team: Team, base: str) -> dict[str, float]:
    """By technique: seconds that cells of the team's last studies on this base model took ÷ those expected; "" is that
    of all together. Empty where there are none."""
    studies = Study.objects.for_team(team).filter(base_name=base).exclude(results="").order_by("-pk")
    expected: dict[str, float] = {}
    real: dict[str, float] = {}
    for study in studies[:STUDIES_LOOKED_AT]:
        known = {one["technique"]: one for one in study.planned.get("techniques") or ()}
        first = (study.spec.get("seeds") or [None])[0]
        done = StudyEntry.objects.filter(study=study, state="done", share=1, technique__in=known)
        for technique, seed, summary in done.values_list("technique", "seed", "summary"):
            planned_s = _expected_s(known[technique], is_first=seed == first)
            for name in ("", technique) if planned_s else ():
                expected[name] = expected.get(name, 0.0) + planned_s
                real[name] = real.get(name, 0.0) + float(summary.get("seconds") or 0)
    return {
        name: round(min(max(real[name] / seconds, LEAST_FACTOR), MOST_FACTOR), 3)
        for name, seconds in expected.items() if real[name]
    }  # fmt: skip


def _expected_s(one: Mapping[str, Any], *, is_first: bool) -> float:
    """Of a cell, before anything corrected it. Only the first seed searches."""
    searched = float(one["search_s"]) if is_first else 0.0
    return (searched + float(one["train_s"]) + float(one["measure_s"])) / float(one.get("factor") or 1)
