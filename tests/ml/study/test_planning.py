"""The plan of a study, as the planner answers it and as the study's own process makes it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ml.__main__ import main
from ml.data.rows import read_dataset
from ml.study import planning
from ml.study.drawing import drawn
from ml.study.planning import planned, study_plan
from tests.ml.running import Recorder
from tests.ml.study.studying import NAMES, small_folder, small_rows, small_spec

NAMED = ["plain", "few_shot", "lora", "full"]


def question(**changes: Any) -> dict[str, Any]:
    sample = [{"messages": row["messages"], "completion": row["completion"]} for row in small_rows("classification")]
    study = {**NAMES, "techniques": NAMED, "steps": 10, **changes.pop("study", {})}
    data = {"n_rows": {"train": 20, "validation": 10, "test": 10}, "labels": ["blue", "green", "red"],
            "sample": sample, "mapping": {}, "lengths": {}}  # fmt: skip
    return {"study": study, "task": "classification", "data": data, "calibration": {}, **changes}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "PATIENCE_S", 600.0)


def test_every_technique_has_time_memory_and_a_place(study_models: Path, patient: None) -> None:
    said = study_plan(question(), models=study_models, device="cpu")
    assert {one["technique"] for one in said["techniques"]} == set(said["chosen"]) == set(NAMED)
    times = [one["total_s"] for one in said["techniques"]]
    assert times == sorted(times) and times[-1] > 0
    assert said["total_s"] == pytest.approx(sum(times), abs=0.05)
    assert {one["verdict"] for one in said["techniques"]} == {"fits"}
    assert said["n_done"] == said["n_all"] == 4
    assert json.loads(json.dumps(said)) == said


def test_what_the_budget_cannot_hold_is_left_out_with_the_reason(study_models: Path, patient: None) -> None:
    whole = study_plan(question(), models=study_models, device="cpu")
    dearest = whole["techniques"][-1]
    asked = question(study={"budget_s": whole["total_s"] - 0.5 * dearest["total_s"]})
    said = study_plan(asked, models=study_models, device="cpu")
    assert "of the budget are left" in said["left_out"][dearest["technique"]]
    assert said["techniques"][-1]["is_chosen"] is False
    assert said["total_s"] <= said["budget_s"]


def test_what_earlier_studies_took_counts(study_models: Path, patient: None) -> None:
    plain, slow = (
        {one["technique"]: one["total_s"] for one in
         study_plan(question(calibration=factors), models=study_models, device="cpu")["techniques"]}
        for factors in ({}, {"lora": 5.0})
    )  # fmt: skip
    assert slow["lora"] == pytest.approx(5 * plain["lora"], rel=0.02)
    assert slow["full"] == plain["full"]


def test_a_question_that_takes_long_is_answered_with_what_is_there(
    study_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "PATIENCE_S", -1.0)
    said = study_plan(question(), models=study_models, device="cpu")
    assert (said["n_done"], said["n_all"]) == (1, 4)


def test_the_planner_answers_studies_beside_runs_and_refuses_by_field(
    study_models: Path, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"id": 1, **question()}, {"id": 2, **question(study={"techniques": ["magic"]})},
             {"id": 3, **question(study={"base": "nowhere"})}]  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(json.dumps(line) + "\n" for line in lines)))
    heard = Recorder()
    assert main(["plan", "--serve", "--models", str(study_models), "--device", "cpu"], heard) == 0  # type: ignore[arg-type]
    good, bad, gone = heard.named("plan")
    assert [one["id"] for one in (good, bad, gone)] == [1, 2, 3]
    assert good["n_done"] == 4
    assert (bad["error"]["field"], gone["error"]["field"]) == ("techniques", "base")


@pytest.mark.parametrize("base", ["llama", "t5"])
def test_a_study_plans_itself_from_its_rows(study_models: Path, tmp_path: Path, base: str) -> None:
    spec = small_spec("generation", techniques=["plain", "lora"])
    dataset = drawn(read_dataset(small_folder(tmp_path, "generation")), spec)
    said = planned(spec, study_models / base, dataset, {}, "cpu")
    assert [one.technique for one in said] == ["plain", "lora"]
    assert all(one.cost is not None and one.total_s > 0 for one in said)


def test_rows_that_cannot_be_encoded_are_no_reason_not_to_begin(study_models: Path, tmp_path: Path) -> None:
    spec = small_spec(techniques=["plain", "lora"])
    dataset = drawn(read_dataset(small_folder(tmp_path, "classification")), spec)
    broken = {**dataset.splits, "train": [replace(row, completion=" ") for row in dataset.splits["train"]]}
    assert planned(spec, study_models / "llama", replace(dataset, splits=broken), {}, "cpu") == []
