"""The cells of a study: which there are, in which order, what their figures depend on, and how they are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ml.errors import SpecError
from ml.specs.study import TECHNIQUES
from ml.study.cells import Cell, Kept, cells_of, identity_of
from tests.ml.study.studying import small_spec

FIRST = Cell(technique="lora", seed=17)
LINES = [{"row": 1, "expected": "red", "got": "blue", "scores": [-1.0, -2.0]}]


def cell(key: str = "lora-s17", **changes: Any) -> dict[str, Any]:
    metrics = {"metrics": {"accuracy": 0.5, "macro_f1": 0.25}, "intervals": {"accuracy": [0.4, 0.6]}}
    given = {"key": key, "state": "done", "identity": "same", "artifact": "", "value": 0.5, **metrics}
    return {**given, **changes}


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "out")


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """An earlier `out` with one trained cell that is done."""
    earlier = Kept(tmp_path / "before")
    earlier.artifact("lora-s17").mkdir()
    (earlier.artifact("lora-s17") / "weights").write_text("w", encoding="utf-8")
    earlier.write(cell(artifact="artifacts/lora-s17"), LINES)
    return earlier.out


def keys(**changes: Any) -> list[str]:
    return [one.key for one in cells_of(small_spec(**changes))]


def test_the_first_seed_of_all_comes_before_the_second_of_any_and_shares_come_last() -> None:
    assert keys(techniques=["few_shot", "lora"], seeds=[17, 18], shares=[0.5, 0.1]) == [
        "few_shot-s17", "lora-s17", "few_shot-s18", "lora-s18", "lora-s17-0.1", "lora-s17-0.5",
    ]  # fmt: skip


def test_what_has_no_chance_is_measured_once() -> None:
    found = keys(techniques=["plain", "zero_shot", "chain_of_thought", "few_shot_nearest"], seeds=[1, 2, 3])
    assert found == ["plain-s1", "zero_shot-s1", "few_shot_nearest-s1", "chain_of_thought-s1"]


def test_only_what_learns_from_rows_is_measured_with_fewer_rows() -> None:
    found = keys(techniques=["plain", "few_shot", "few_shot_nearest", "self_consistency", "ia3"], shares=[0.5])
    assert found[5:] == ["few_shot_nearest-s17-0.5", "ia3-s17-0.5"]


def test_the_curve_may_be_of_some_techniques_only() -> None:
    found = keys(techniques=["lora", "ia3"], shares=[0.5], curve_techniques=["ia3"])
    assert found == ["lora-s17", "ia3-s17", "ia3-s17-0.5"]


def test_the_cheapest_come_first_and_those_of_unknown_cost_last() -> None:
    found = cells_of(small_spec(techniques=["plain", "lora", "full"]), ["full", "lora"])
    assert [one.technique for one in found] == ["full", "lora", "plain"]


def test_every_key_is_a_name_of_a_file_of_its_own() -> None:
    settings = {"seeds": [1, 2, 2**31 - 1], "shares": [1e-6, 0.1, 0.123456]}
    spec = small_spec(techniques=list(TECHNIQUES), collection="handbook", **settings)
    found = [one.key for one in cells_of(spec)]
    assert len(set(found)) == len(found)
    assert all(key == Path(key).name and " " not in key for key in found)


def identity(one: Cell = FIRST, *, fingerprint: str = "f", rows: str = "r", **changes: Any) -> str:
    passages = changes.pop("passages", "p")
    spec = small_spec(**{"techniques": list(TECHNIQUES), "collection": "handbook", **changes})
    return identity_of(one, spec, fingerprint=fingerprint, rows_sha256=rows, passages_sha256=passages)


@pytest.mark.parametrize(
    "changes",
    [
        {"budget_s": 60}, {"metric": "macro_f1"}, {"seeds": [17, 18]}, {"shares": [0.5]}, {"dataset": "renamed@1"},
        {"techniques": ["lora", "plain"]}, {"n_examples": 4}, {"n_votes": 3}, {"instruction": "Say it."},
        {"curve_techniques": ["lora"]}, {"collection": "wiki"}, {"passages": "q"},
    ],
)  # fmt: skip
def test_what_a_trained_cell_does_not_depend_on_leaves_its_identity(changes: dict[str, Any]) -> None:
    assert identity(**changes) == identity()


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 5}, {"batch_size": 5}, {"n_tries": 1}, {"valid_rows": 9}, {"max_length": 95}, {"base": "other"},
        {"dataset_sha256": "e" * 64}, {"seeds": [16, 17]}, {"fingerprint": "g"}, {"rows": "s"}, {"max_tokens": 7},
    ],
)  # fmt: skip
def test_what_a_trained_cell_depends_on_changes_its_identity(changes: dict[str, Any]) -> None:
    assert identity(**changes) != identity()


def test_a_cell_of_another_seed_share_or_technique_is_another() -> None:
    others = [
        Cell(technique="lora", seed=18),
        Cell(technique="lora", seed=17, share=0.5),
        Cell(technique="ia3", seed=17),
    ]
    assert len({identity(), *map(identity, others)}) == 4


def test_only_retrieval_depends_on_what_was_found_and_not_on_the_collections_name() -> None:
    sourced, told = (Cell(technique=name, seed=17) for name in ("retrieval", "zero_shot"))
    assert identity(sourced, passages="q") != identity(sourced) == identity(sourced, collection="renamed")
    assert identity(told, passages="q") == identity(told)


def test_asking_depends_on_its_own_settings_and_not_on_those_of_training() -> None:
    asked = Cell(technique="few_shot", seed=17)
    assert identity(asked, steps=5, n_tries=1, seeds=[16, 17]) == identity(asked)
    assert identity(asked, n_examples=4) != identity(asked) != identity(asked, instruction="Say it.")


def test_a_kept_cell_is_read_as_it_was_written_with_its_rows(kept: Kept) -> None:
    kept.write(cell(), LINES)
    assert kept.read("lora-s17") == cell()
    assert kept.rows("lora-s17")[0].scores == (-1.0, -2.0)
    assert not list(kept.out.rglob(".*"))


def test_what_is_no_number_is_kept_as_unknown(kept: Kept) -> None:
    kept.write(cell(value=float("nan")))
    assert json.loads((kept.out / "cells" / "lora-s17.json").read_text(encoding="utf-8"))["value"] is None


def test_a_cell_that_is_not_there_or_cannot_be_read_is_none(kept: Kept) -> None:
    (kept.out / "cells" / "lora-s17.json").write_text('{"key": ', encoding="utf-8")
    assert kept.read("lora-s17") is kept.read("ia3-s17") is None
    assert kept.cells() == []


def test_equal_cells_are_taken_over_with_rows_and_artifact(kept: Kept, before: Path) -> None:
    assert kept.take_over(before, {"lora-s17": "same"}, metric="accuracy") == ["lora-s17"]
    assert kept.read("lora-s17") == json.loads((before / "cells" / "lora-s17.json").read_text(encoding="utf-8")) | {
        "interval": [0.4, 0.6]
    }
    assert len(kept.rows("lora-s17")) == 1
    assert (kept.artifact("lora-s17") / "weights").read_text(encoding="utf-8") == "w"


@pytest.mark.parametrize("wanted", [{}, {"lora-s17": "other"}, {"lora-s18": "same"}])
def test_nothing_else_is_taken_over(kept: Kept, before: Path, wanted: dict[str, str]) -> None:
    assert kept.take_over(before, wanted, metric="accuracy") == []
    assert not list((kept.out / "cells").iterdir())


@pytest.mark.parametrize("state", ["failed", "left_out"])
def test_what_was_not_done_gets_another_chance(kept: Kept, before: Path, state: str) -> None:
    Kept(before).write(cell(state=state))
    assert kept.take_over(before, {"lora-s17": "same"}, metric="accuracy") == []


def test_a_cell_that_is_here_already_stays(kept: Kept, before: Path) -> None:
    kept.write(cell(value=0.75), LINES)
    assert kept.take_over(before, {"lora-s17": "same"}, metric="accuracy") == []
    assert (kept.read("lora-s17") or {})["value"] == 0.75


def test_a_cell_that_lost_its_rows_or_its_artifact_stays_behind(kept: Kept, before: Path) -> None:
    """The copy failed on the missing file, and with it the whole study."""
    (before / "artifacts" / "lora-s17" / "weights").unlink()
    (before / "artifacts" / "lora-s17").rmdir()
    assert kept.take_over(before, {"lora-s17": "same"}, metric="accuracy") == []
    Kept(before).write(cell())
    (before / "rows" / "lora-s17.jsonl").unlink()
    assert kept.take_over(before, {"lora-s17": "same"}, metric="accuracy") == []


def test_under_another_metric_a_cell_is_ranked_by_that(kept: Kept, before: Path) -> None:
    """Its value stayed that of the metric before, beside others of the new one."""
    kept.take_over(before, {"lora-s17": "same"}, metric="macro_f1")
    found = kept.read("lora-s17") or {}
    assert (found["value"], found["interval"]) == (0.25, [0.0, 1.0])


def test_a_folder_without_cells_has_nothing_to_take_over(kept: Kept, tmp_path: Path) -> None:
    assert kept.take_over(tmp_path / "nowhere", {"lora-s17": "same"}, metric="accuracy") == []
    assert not (tmp_path / "nowhere").exists()


def test_a_work_folder_of_another_study_is_refused(kept: Kept) -> None:
    """Its cells were shown as those of the study that was asked for."""
    kept.write(cell(), LINES)
    kept.check_belongs({"lora-s17": "same", "ia3-s17": "new"})
    with pytest.raises(SpecError, match="belongs to another study: its lora-s17"):
        kept.check_belongs({"lora-s17": "other"})
    kept.write(cell(state="left_out"))
    kept.check_belongs({"lora-s17": "other"})
