"""What goes wrong stays where it is, what has no budget is left out with a reason, and what was found before counts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml.__main__ import main
from ml.errors import StorageError
from ml.study.budget import Budget
from ml.study.estimate import TechniqueEstimate
from ml.study.measuring import Measuring
from ml.train import Trainer
from tests.ml.running import Recorder
from tests.ml.study.studying import SHA, SMALL, Studying, outcome, read_cells


def states(out: Path) -> dict[str, str]:
    return {key: str(cell["state"]) for key, cell in read_cells(out).items()}


def diverging(monkeypatch: pytest.MonkeyPatch, method: str, *, above: float = 0) -> None:
    """Trainings of `method` at a learning rate above `above` meet a loss that is no number."""
    accumulate = Trainer._accumulate

    def meeting(self: Trainer, batch: list[Any]) -> float:
        is_meant = self.spec.method == method and self.spec.learning_rate > above
        return math.nan if is_meant else accumulate(self, batch)

    monkeypatch.setattr(Trainer, "_accumulate", meeting)


def test_a_technique_that_fails_says_why_and_leaves_the_others_alone(
    studying: Studying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverging(monkeypatch, "lora")
    given = {"techniques": ["plain", "lora", "ia3"], "seeds": [17, 18], "shares": [0.5], "curve_techniques": ["lora"]}
    emit = studying.done(tmp_path / "work", **given)
    out = tmp_path / "work" / "out"
    assert states(out) == {"plain-s17": "done", "ia3-s17": "done", "ia3-s18": "done", "lora-s17": "failed",
                           "lora-s18": "left_out", "lora-s17-0.5": "left_out"}  # fmt: skip
    cells = read_cells(out)
    assert cells["lora-s17"]["error"]["code"] == "diverged"
    assert "loss nan" in cells["lora-s17"]["error"]["message"]
    assert cells["lora-s18"]["reason"] == cells["lora-s17-0.5"]["reason"] == "Its first seed failed."
    found = emit.named("board")[-1]
    assert found["complete"]
    assert [one["key"] for one in found["failed"]] == ["lora-s17"]
    assert {path.name[:3] for path in (out / "artifacts").iterdir()} == {"ia3"}
    again = studying.done(tmp_path / "work", **given)
    assert [event["key"] for event in again.named("cell") if event["state"] != "left_out"] == []


def test_a_learning_rate_that_diverges_is_only_out_of_the_search(
    studying: Studying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverging(monkeypatch, "lora", above=1e-3)
    studying.done(tmp_path / "work", techniques=["lora"], n_tries=3)
    cell = read_cells(tmp_path / "work" / "out")["lora-s17"]
    assert cell["state"] == "done"
    failed = [one for one in cell["tries"] if one["state"] == "failed"]
    assert failed
    assert all(one["learning_rate"] > 1e-3 >= cell["learning_rate"] for one in failed)
    assert "loss nan" in failed[0]["error"]["message"]


def test_what_cannot_be_measured_leaves_no_artifact(
    studying: Studying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Measuring.answers

    def failing(self: Measuring, asked: Any, **values: Any) -> Any:
        if values["artifact"] is not None:
            raise StorageError("The disk is full.", hint="Make room.")
        return answers(self, asked, **values)

    monkeypatch.setattr(Measuring, "answers", failing)
    studying.done(tmp_path / "work")
    out = tmp_path / "work" / "out"
    assert states(out) == {"plain-s17": "done", "lora-s17": "failed"}
    assert read_cells(out)["lora-s17"]["error"]["message"] == "The disk is full."
    assert list((out / "artifacts").iterdir()) == []


def test_without_its_embedding_model_only_the_nearest_examples_fail(studying: Studying, tmp_path: Path) -> None:
    studying.done(tmp_path / "work", techniques=["plain", "few_shot", "few_shot_nearest"], embedder="nowhere")
    cells = read_cells(tmp_path / "work" / "out")
    assert states(tmp_path / "work" / "out") == {
        "few_shot-s17": "done", "few_shot_nearest-s17": "failed", "plain-s17": "done",
    }  # fmt: skip
    assert cells["few_shot_nearest-s17"]["error"]["code"] == "model_missing"
    assert "nowhere" in cells["few_shot_nearest-s17"]["error"]["message"]


def test_a_budget_that_is_nothing_leaves_everything_out_and_still_ends_well(studying: Studying, tmp_path: Path) -> None:
    given: dict[str, Any] = {"techniques": ["plain", "lora"], "seeds": [17, 18]}
    emit = studying.done(tmp_path / "work", budget_s=1e-6, **given)
    out = tmp_path / "work" / "out"
    cells = read_cells(out)
    assert set(states(out).values()) == {"left_out"}
    assert cells["plain-s17"]["reason"] == "The budget of 0 s was used up."
    assert cells["lora-s18"]["reason"] == "Its first seed was left out."
    assert emit.events[-1]["metrics"] == {}
    found = json.loads((out / "board.json").read_text(encoding="utf-8"))
    assert found["n_cells"] == {"done": 0, "failed": 0, "left_out": 3, "waiting": 0, "total": 3}
    assert (found["entries"], found["take"], found["complete"]) == ([], None, True)
    assert (out / "report.html").is_file()
    studying.done(tmp_path / "work", **given)
    assert set(states(out).values()) == {"done"}


def test_what_no_longer_fits_is_left_out_and_the_cheaper_is_done(
    studying: Studying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [TechniqueEstimate(technique="lora", train_s=90_000), TechniqueEstimate(technique="plain", measure_s=1)]
    monkeypatch.setattr("ml.cli_study.planned", lambda *_, **__: expected)
    monkeypatch.setattr(Budget, "factor", 1.0)
    emit = studying.done(tmp_path / "work", budget_s=3600)
    assert states(tmp_path / "work" / "out") == {"plain-s17": "done", "lora-s17": "left_out"}
    reason = read_cells(tmp_path / "work" / "out")["lora-s17"]["reason"]
    assert reason == "It would take about 1500 min, and 60 min of the budget were left."
    assert next(event["key"] for event in emit.named("cell")) == "plain-s17"


@pytest.fixture(scope="module")
def before(studying: Studying, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `out` of a study that is extended later."""
    workdir = tmp_path_factory.mktemp("before") / "before"
    studying.done(workdir, techniques=["plain", "lora"])
    return workdir / "out"


def test_an_extended_study_does_only_what_is_new(studying: Studying, before: Path, tmp_path: Path) -> None:
    emit = studying.done(tmp_path / "work", before=before, techniques=["plain", "lora", "ia3"], seeds=[17, 18])
    taken = [event["text"] for event in emit.named("phase") if "taken over" in event["text"]]
    assert taken == ["lora-s17 is taken over from before", "plain-s17 is taken over from before"]
    assert {event["key"] for event in emit.named("cell")} == {"lora-s18", "ia3-s17", "ia3-s18"}
    found, earlier = outcome(tmp_path / "work" / "out"), outcome(before)
    for key in ("plain-s17", "lora-s17"):
        assert found["rows"][key] == earlier["rows"][key]
        assert found["cells"][key] | {"artifact": ""} == earlier["cells"][key] | {"artifact": ""}
    assert emit.events[-1]["event"] == "finished"


def test_other_steps_are_trained_anew_and_the_plain_model_is_not(
    studying: Studying, before: Path, tmp_path: Path
) -> None:
    emit = studying.done(tmp_path / "work", before=before, steps=3)
    assert {event["key"] for event in emit.named("cell")} == {"lora-s17"}
    cell = read_cells(tmp_path / "work" / "out")["lora-s17"]
    assert (cell["steps"], cell["spec"]["steps"]) == (3, 3)


def test_the_study_before_is_left_as_it_was(studying: Studying, before: Path, tmp_path: Path) -> None:
    files = {path: path.read_bytes() for path in before.rglob("*") if path.is_file()}
    assert studying.done(tmp_path / "work", before=before).named("cell") == []
    assert files == {path: path.read_bytes() for path in before.rglob("*") if path.is_file()}


def refusal(emit: Recorder) -> dict[str, Any]:
    assert emit.events[-1]["event"] == "failed"
    return dict(emit.events[-1]["error"])


def test_a_work_folder_of_another_study_is_refused(studying: Studying, tmp_path: Path) -> None:
    studying.done(tmp_path / "work", techniques=["plain"])
    code, emit = studying.run(tmp_path / "work", techniques=["plain"], max_tokens=7)
    assert code == 64
    assert "belongs to another study: its plain-s17" in refusal(emit)["message"]


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"n_tries": 0}, 64, "n_tries"),
        ({"colour": "blue"}, 64, "colour"),
        ({"techniques": ["magic"]}, 64, "techniques"),
        ({"base": "bert", "techniques": ["few_shot"]}, 64, "techniques"),
        ({"metric": "numeric", "task": "generation"}, 64, "metric"),
        ({"dataset_sha256": "e" * 64}, 65, "dataset_sha256"),
        ({"base": "missing"}, 69, "base"),
        ({"base": "../llama"}, 69, "base"),
        ({"base": None}, 69, "base"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_anything_is_done(
    studying: Studying, tmp_path: Path, changes: dict[str, Any], code: int, field: str
) -> None:
    found, emit = studying.run(tmp_path / "work", **changes)
    assert (found, refusal(emit)["field"]) == (code, field)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "nothing"])
def test_a_spec_that_is_no_object_is_refused(studying: Studying, tmp_path: Path, text: str) -> None:
    emit: Any = Recorder()
    (tmp_path / "spec.json").write_text(text, encoding="utf-8")
    words = ["study", str(tmp_path / "spec.json"), "--dataset", str(studying.datasets["classification"])]
    assert main([*words, "--models", str(studying.models), "--workdir", str(tmp_path / "work")], emit=emit) == 64
    assert refusal(emit)["code"] == "invalid_spec"


def test_a_spec_may_be_yaml_and_the_work_folder_relative(
    studying: Studying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {**SMALL, "techniques": ["output_layers"], "dataset_sha256": SHA["classification"], "n_tries": 1}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    emit: Any = Recorder()
    words = ["study", "spec.yaml", "--dataset", str(studying.datasets["classification"]), "--workdir", "work"]
    assert main([*words, "--models", str(studying.models), "--device", "cpu", "--threads", "1"], emit=emit) == 0
    assert states(tmp_path / "work" / "out") == {"output_layers-s17": "done"}
