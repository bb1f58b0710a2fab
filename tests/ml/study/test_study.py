"""The verb `study` on tiny models: every technique that applies is searched, trained, measured and kept; iterates the
tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from ml.artifact import load_adapter, verify
from ml.backbone import load_backbone
from ml.data.chat import prompt_ids, stop_ids
from ml.data.rows import Dataset, Row, read_dataset
from ml.evaluate.answers import Answered
from ml.evaluate.metrics import accuracy, token_f1
from ml.evaluate.scoring import generate_greedy
from ml.objectives import objective_for
from ml.specs import METHODS, train_spec
from ml.specs.study import TECHNIQUES, study_spec
from ml.specs.tasks import learnt_as
from ml.study.board import board
from ml.study.cells import Cell, cells_of
from tests.ml.running import Recorder
from tests.ml.study.studying import SMALL, Studying, all_techniques, read_cells, read_lines
from tests.ml.tiny import SHAPES

KINDS = [("llama", "classification"), ("llama", "generation"), ("bert", "classification"), ("t5", "classification"),
         ("t5", "generation")]  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "llama-classification": {"seeds": [17, 18], "shares": [0.5], "curve_techniques": ["lora", "few_shot_nearest"]},
    "t5-classification": {"shares": [0.5], "curve_techniques": ["lora"], "n_tries": 1},
    "t5-generation": {"techniques": ["plain", "lora"], "n_tries": 1},
}
OF_TRAINED = ("learning_rate", "steps", "kept_step", "n_trainable", "artifact_bytes", "peak_bytes", "train_s",
              "measure_s", "search_s", "tries", "curve", "valid_value", "spec", "artifact")  # fmt: skip
Whole = tuple[Path, Recorder]


@pytest.fixture(scope="session", params=KINDS, ids="-".join)
def whole(request: pytest.FixtureRequest, studying: Studying, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The `out` of a study of everything that applies to a model and a task, and what was told meanwhile."""
    shape, task = request.param
    given = {"techniques": all_techniques(task, SHAPES[shape]), **SETTINGS.get("-".join(request.param), {})}
    workdir = tmp_path_factory.mktemp("whole") / f"{shape}-{task}"
    emit = studying.done(workdir, task=task, base=shape, **given)
    return workdir / "out", emit


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def spec_of(out: Path) -> Any:
    about = read(out / "study.json")
    return study_spec(about["spec"], task=about["task"], family=SHAPES[about["spec"]["base"]])


def test_every_cell_is_done_and_stands_in_its_files(whole: Whole) -> None:
    out, _ = whole
    cells = read_cells(out)
    assert set(cells) == {cell.key for cell in cells_of(spec_of(out))}
    assert {key: (cell["state"], cell["error"]) for key, cell in cells.items()} == dict.fromkeys(cells, ("done", None))
    assert {path.stem for path in (out / "rows").iterdir()} == set(cells)
    assert {path.name for path in out.iterdir()} == {
        "artifacts", "board.json", "cells", "report.csv", "report.html", "report.md", "rows", "study.json",
    }  # fmt: skip


def test_a_cell_says_everything_that_it_should(whole: Whole) -> None:
    for cell in read_cells(whole[0]).values():
        row = TECHNIQUES[cell["technique"]]
        assert (cell["label"], cell["glyph"], cell["kind"]) == (row.label, row.glyph, row.kind)
        assert 0 <= cell["interval"][0] <= cell["value"] <= cell["interval"][1] <= 1
        assert cell["value"] == cell["metrics"][spec_of(whole[0]).metric]
        assert len(cell["identity"]) == 64
        assert cell["measure_s"] > 0
        assert cell["artifact_bytes"] >= 0
        if cell["kind"] == "trained":
            assert all(cell[name] is not None for name in OF_TRAINED if not name.startswith("valid"))
            assert cell["spec"] == train_spec(cell["spec"]).as_dict()
            assert cell["curve"][-1]["step"] == cell["steps"]
            assert cell["kept_step"] in [look["step"] for look in cell["curve"]]
            assert cell["peak_bytes"] > cell["artifact_bytes"]


def test_rows_are_the_test_splits_and_make_the_cells_value(whole: Whole, studying: Studying) -> None:
    out, _ = whole
    about = read(out / "study.json")
    dataset = read_dataset(studying.datasets[learnt_as(about["task"])])
    rows = dataset.splits["test"][: about["n_rows"]["test"]]
    for key, cell in read_cells(out).items():
        lines = read_lines(out, key)
        assert [(line["place"], line["row"], line["expected"]) for line in lines] == [
            (place, row.number, row.completion) for place, row in enumerate(rows)
        ]
        got = [line["got"] for line in lines]
        if dataset.labels:
            assert cell["value"] == pytest.approx(accuracy([row.completion for row in rows], got))
        else:
            each = [token_f1(row.completion, answer) for row, answer in zip(rows, got, strict=True)]
            assert cell["value"] == pytest.approx(sum(each) / len(each))
        assert cell["n_rows"] == len(rows)


def test_only_a_techniques_first_cell_searches_and_the_others_take_its_rate(whole: Whole) -> None:
    out, _ = whole
    cells, spec = read_cells(out), spec_of(out)
    for key, cell in cells.items():
        if cell["kind"] != "trained":
            continue
        first = cells[Cell(technique=cell["technique"], seed=spec.seeds[0]).key]
        assert cell["learning_rate"] == first["learning_rate"]
        assert len(cell["tries"]) == (spec.n_tries if key == first["key"] else 0)
        assert [one["state"] for one in first["tries"]].count("kept") == 1
        kept = next(one for one in first["tries"] if one["state"] == "kept")
        assert kept["learning_rate"] == first["learning_rate"]
        assert (cell["search_s"] > 0) == (len(cell["tries"]) > 1)


def test_of_each_technique_the_best_seeds_artifact_is_kept(whole: Whole) -> None:
    out, _ = whole
    cells = read_cells(out)
    kept = {key: cell["artifact"] for key, cell in cells.items() if cell["artifact"]}
    assert {path.name for path in (out / "artifacts").iterdir()} == set(kept)
    trained = {cell["technique"] for cell in cells.values() if cell["kind"] == "trained"}
    assert sorted(cells[key]["technique"] for key in kept) == sorted(trained)
    for key in kept:
        mine = (cells[key]["valid_value"] or 0, -cells[key]["valid_loss"])
        same = [cell for cell in cells.values() if cell["technique"] == cells[key]["technique"] and cell["share"] == 1]
        assert mine == max((cell["valid_value"] or 0, -cell["valid_loss"]) for cell in same)


def answers_of(artifact: Path, models: Path, dataset: Dataset, rows: list[Row]) -> list[Any]:
    """What a kept artifact says when it is loaded by itself: scores of labels, or free answers."""
    spec = train_spec(verify(artifact).spec)
    wants_labels = METHODS[spec.method].storage == "head" or spec.base == "bert"
    is_quantized = spec.method == "qlora" and spec.base != "llama"  # the engine serves it on the whole weights
    base = load_backbone(models / spec.base, labels=dataset.labels if wants_labels else None,
                         quantization="nf4" if is_quantized else "")  # fmt: skip
    model = load_adapter(base, artifact)
    objective = objective_for(spec, base, dataset, 96)
    if dataset.labels:
        return [pytest.approx(row, abs=1e-3) for row in objective.label_scores(model, rows, lambda: None)]
    if base.family != "decoder":
        return [text for text, _ in objective.answers(model, rows, lambda: None)]
    stop = stop_ids(base.tokenizer, base.model.generation_config)
    prompts = [prompt_ids(base.tokenizer, row.messages) for row in rows]
    ids = generate_greedy(model, prompts, max_tokens=SMALL["max_tokens"], stop=stop)
    return [base.tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in ids]


def test_a_kept_artifact_gives_the_answers_that_were_measured(whole: Whole, studying: Studying) -> None:
    out, _ = whole
    about = read(out / "study.json")
    dataset = read_dataset(studying.datasets[learnt_as(about["task"])])
    rows = dataset.splits["test"][: about["n_rows"]["test"]]
    for path in sorted((out / "artifacts").iterdir()):
        measured = [line["scores"] if dataset.labels else line["got"] for line in read_lines(out, path.name)]
        assert measured == answers_of(path, studying.models, dataset, rows), path.name


def test_board_and_reports_are_of_these_cells(whole: Whole) -> None:
    out, emit = whole
    cells, about = read_cells(out), read(out / "study.json")
    rows = {key: [Answered.from_dict(line) for line in read_lines(out, key)] for key in cells}
    found = read(out / "board.json")
    assert found == board(spec_of(out), about, list(cells.values()), rows)
    assert found["complete"]
    assert emit.named("board")[-1] == {"event": "board", **found}
    with (out / "report.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) == 1 + len(cells)
    assert "</html>" in (out / "report.html").read_text(encoding="utf-8")


def test_study_json_says_what_the_figures_depend_on(whole: Whole, studying: Studying) -> None:
    about = read(whole[0] / "study.json")
    assert about["base_fingerprint"] == load_backbone(studying.models / about["spec"]["base"]).fingerprint
    assert about["dataset_sha256"] == about["spec"]["dataset_sha256"]
    assert {"python", "torch", "transformers", "peft"} <= about["versions"].keys()
    assert {"processor", "cores", "memory_bytes", "device"} <= about["machine"].keys()
    assert about["command"].startswith("python -m ml study ")
    assert str(studying.folder) not in json.dumps(about)


def test_overhead_is_what_is_left_of_the_time(whole: Whole) -> None:
    about = read(whole[0] / "study.json")
    work = sum(about["spent_s"][kind] for kind in ("load", "search", "train", "measure"))
    assert 0 < about["overhead_s"] == pytest.approx(about["seconds"] - work, abs=0.5)
    assert about["spent_s"]["overhead"] <= about["overhead_s"] + 0.1


def test_events_tell_the_whole_study(whole: Whole) -> None:
    out, emit = whole
    cells = read_cells(out)
    assert emit.named("started")[0]["n_steps"] == len(cells)
    assert emit.events[-1]["event"] == "finished"
    assert emit.events[-1]["out"] == str(out)
    assert emit.named("progress")[-1]["done"] == len(cells) == emit.named("progress")[-1]["total"]
    for key, cell in cells.items():
        told = [event["state"] for event in emit.named("cell") if event["key"] == key]
        ways = ["training", "measuring", "done"] if cell["kind"] == "trained" else ["measuring", "done"]
        assert told == (["searching", *ways] if len(cell.get("tries", ())) > 1 else ways)
    done = [event for event in emit.named("cell") if event["state"] == "done"]
    assert {event["key"]: event["value"] for event in done} == {key: cell["value"] for key, cell in cells.items()}


def test_nothing_is_left_but_the_result(whole: Whole) -> None:
    assert {path.name for path in whole[0].parent.iterdir()} == {"out", "spent.json", "started_at"}
    assert not list(whole[0].rglob(".*"))
