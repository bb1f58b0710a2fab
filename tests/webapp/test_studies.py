"""Studies as services: what is asked for, refused, extended, stopped and published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml.errors import ColdframeError, NotFoundError
from tests.webapp.studying import N_TEST, data_version, published, submitted
from webapp.models import AuditEvent, BaseModel, Outbox, Run, Study, StudyEntry
from webapp.services.run_leases import run_claim, run_record
from webapp.services.studies import (
    study_archive,
    study_extend,
    study_go_on,
    study_publish,
    study_rename,
    study_stop,
    study_submit,
)
from webapp.services.study_promotions import study_promote


@pytest.fixture
def version(team: Any, tmp_path: Path) -> Any:
    return data_version(team, tmp_path)


RIGHT = {"plain-s17": 4, "zero_shot-s17": 6, "lora-s17": 11}


def test_a_study_its_run_and_the_doorbell_are_written_together(team: Any, member: Any, version: Any):
    study = submitted(team, member, version)
    run = study.run
    assert run is not None and (run.kind, run.title) == (Run.Kind.STUDY, "Which one?")
    assert Outbox.objects.filter(run=run).count() == 1
    assert run.spec == {**study.spec, "kind": "study", "study": study.pk}
    assert (study.metric, study.base_name, study.spec["test_rows"]) == ("accuracy", "tiny", 200)
    assert AuditEvent.objects.get(action="study.submit").subject == "Which one?"


def test_a_study_without_a_name_is_called_by_its_data(team: Any, member: Any, version: Any):
    given = {"base": "tiny", "techniques": ["zero_shot"]}
    study = study_submit(team=team, user=member, name=" ", dataset_version_id=version.pk, given=given)
    assert study.name == "tickets: which technique?"


@pytest.mark.parametrize(
    ("given", "field", "said"),
    [
        ({"base": ""}, "base", "needs a base model"),
        ({"base": None}, "base", "needs a base model"),
        ({"techniques": []}, "techniques", "at least one technique"),
        ({"techniques": ["magic"]}, "techniques", "Unknown technique"),
        ({"metric": "bleu"}, "metric", "cannot be ranked by 'bleu'"),
        ({"seeds": [17, 17]}, "seeds", "counts once"),
        ({"shares": [1.5]}, "shares", "above 0 and below 1"),
        ({"wit": 1}, "wit", "Unknown keys"),
        ({"instruction": "Say {label}."}, "instruction", "asks for {label}"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_anything_is_written(
    given: dict[str, Any], field: str, said: str, team: Any, member: Any, version: Any
):
    with pytest.raises(ColdframeError, match=said) as caught:
        submitted(team, member, version, **given)
    assert caught.value.field == field
    assert not Run.objects.exists() and not Study.objects.exists()


@pytest.mark.parametrize(
    ("data", "given", "field", "said"),
    [
        ({"n_test": 0}, {}, "dataset", "0 test rows"),
        ({"n_test": 1}, {}, "dataset", "1 test rows"),
        ({"n_valid": 0}, {"n_tries": 3}, "n_tries", "no validation rows, on which 3 learning rates"),
        ({"labels": ["only"]}, {}, "dataset", "nothing to tell apart"),
        ({"labels": [f"label {n}" for n in range(501)]}, {}, "dataset", "501 labels"),
        ({"task": "generation"}, {"metric": "numeric"}, "metric", "needs a number in every expected answer"),
    ],
)
def test_data_that_cannot_be_studied_is_refused(
    data: dict[str, Any], given: dict[str, Any], field: str, said: str, team: Any, member: Any, tmp_path: Path
):
    version = data_version(team, tmp_path, **data)
    with pytest.raises(ColdframeError, match=said) as caught:
        submitted(team, member, version, **given)
    assert caught.value.field == field and not Run.objects.exists()


def test_without_a_search_no_validation_rows_are_asked_for(team: Any, member: Any, tmp_path: Path):
    version = data_version(team, tmp_path, n_valid=0)
    assert submitted(team, member, version, n_tries=1).run is not None
    assert submitted(team, member, version, n_tries=3, techniques=["plain", "zero_shot"]).run is not None


def test_a_model_that_is_not_there_is_refused_by_name(team: Any, member: Any, version: Any):
    BaseModel.objects.create(name="other", family="decoder")
    with pytest.raises(ColdframeError, match="no base model 'tiny'"):
        submitted(team, member, version)


def test_another_team_s_data_does_not_exist(other_team: Any, stranger: Any, version: Any):
    with pytest.raises(NotFoundError, match="No data set version"):
        submitted(other_team, stranger, version)


def test_publishing_writes_the_board_and_an_entry_a_cell(team: Any, member: Any, version: Any, tmp_path: Path):
    study = published(submitted(team, member, version), tmp_path, RIGHT, failed=["head-s17"], left_out=["full-s17"])
    assert study.is_done and study.board["take"] == "lora" and study.about["versions"] == {"torch": "2.9.0"}
    entry = study.entries.get(key="lora-s17")
    assert (entry.state, entry.value, entry.seed, entry.share) == ("done", 11 / N_TEST, 17, 1)
    assert not {"tries", "curve", "spec"} & set(entry.summary) and entry.summary["label"] == "LoRA"
    assert {e.key: e.state for e in study.entries.exclude(state="done")} == {
        "head-s17": "failed", "full-s17": "left_out",
    }  # fmt: skip


def test_publishing_twice_changes_nothing(team: Any, member: Any, version: Any, tmp_path: Path):
    study = published(submitted(team, member, version), tmp_path, RIGHT)
    before = list(StudyEntry.objects.values_list("pk", "key"))
    again = published(study, tmp_path, RIGHT)
    assert again.results == study.results and list(StudyEntry.objects.values_list("pk", "key")) == before


def test_a_run_that_the_study_went_on_without_publishes_nothing(team: Any, member: Any, version: Any, tmp_path: Path):
    study = published(submitted(team, member, version), tmp_path, RIGHT)
    first = study.run
    study_extend(study=study, user=member, techniques=["ia3"])
    assert first is not None
    assert study_publish(run=first, out=tmp_path, results="0" * 64, compared={}) is None
    assert Study.objects.get().results == study.results


def test_a_technique_added_later_is_measured_in_a_new_run(team: Any, member: Any, version: Any, tmp_path: Path):
    study = published(submitted(team, member, version), tmp_path, RIGHT)
    first = study.run_id
    study_extend(study=study, user=member, techniques=["ia3"], seeds=[18], shares=[0.3], budget_s=60)
    study.refresh_from_db()
    assert study.run_id != first and study.run is not None and study.run.state == Run.State.QUEUED
    assert study.spec["techniques"] == ["plain", "zero_shot", "lora", "ia3"]
    assert (study.spec["seeds"], study.spec["shares"], study.spec["budget_s"]) == ([17, 18], [0.3], 60)
    assert study.is_done and study.entries.count() == 3
    assert AuditEvent.objects.get(action="study.extend").detail["techniques"] == "ia3"


def test_a_study_that_is_still_measured_is_not_extended(team: Any, member: Any, version: Any):
    study = submitted(team, member, version)
    with pytest.raises(ColdframeError, match="still being measured") as caught:
        study_extend(study=study, user=member, techniques=["ia3"])
    assert caught.value.status == 409 and Run.objects.count() == 1


def test_of_two_who_extend_at_once_the_second_is_told(team: Any, member: Any, version: Any, tmp_path: Path):
    study = published(submitted(team, member, version), tmp_path, RIGHT)
    theirs = Study.objects.select_related("run", "dataset_version__dataset", "team").get(pk=study.pk)
    study_extend(study=study, user=member, techniques=["ia3"])
    with pytest.raises(ColdframeError, match="Somebody else extended") as caught:
        study_extend(study=theirs, user=member, techniques=["head"])
    assert caught.value.status == 409 and Run.objects.count() == 2
    assert "head" not in Study.objects.get().spec["techniques"]


def test_a_run_that_is_tried_again_at_the_same_time_keeps_its_study(
    team: Any, member: Any, version: Any, tmp_path: Path
):
    study = published(submitted(team, member, version), tmp_path, RIGHT)
    Run.objects.filter(pk=study.run_id).update(state=Run.State.QUEUED)
    assert study.run is not None and study.run.is_over
    with pytest.raises(ColdframeError, match="still being measured"):
        study_extend(study=study, user=member, techniques=["ia3"])
    assert Study.objects.get().run_id == study.run_id and Run.objects.count() == 1


def test_an_extension_by_nothing_is_refused_unless_something_is_open(
    team: Any, member: Any, version: Any, tmp_path: Path
):
    study = published(submitted(team, member, version), tmp_path, RIGHT)
    with pytest.raises(ColdframeError, match="has all of that already"):
        study_extend(study=study, user=member, techniques=["lora"])
    other = published(submitted(team, member, version, shares=[0.5]), tmp_path, RIGHT, failed=["lora-s17-0.5"])
    assert study_extend(study=other, user=member).run_id != study.run_id


def test_what_was_measured_otherwise_leaves_its_version(team: Any, member: Any, version: Any, tmp_path: Path):
    """An entry with another identity is another measurement; the library's version stays, the link does not."""
    study = published(submitted(team, member, version), tmp_path, RIGHT)
    study_promote(entry=study.entries.get(key="lora-s17"), user=member, name="triage")
    entry = study.entries.get(key="lora-s17")
    entry.summary["identity"] = "other"
    entry.save(update_fields=["summary"])
    study_extend(study=study, user=member, techniques=["ia3"])
    published(Study.objects.get(), tmp_path, {**RIGHT, "ia3-s17": 9})
    assert study.entries.get(key="lora-s17").adapter_version is None


def test_a_study_is_renamed_and_archived_by_its_team(team: Any, member: Any, version: Any, tmp_path: Path):
    study = submitted(team, member, version)
    with pytest.raises(ColdframeError, match="still being measured"):
        study_archive(study=study, user=member)
    assert study_rename(study=study, user=member, name="  Letters:  which? ").name == "Letters: which?"
    with pytest.raises(ColdframeError, match="at most 120"):
        study_rename(study=study, user=member, name="x" * 121)
    study = published(study, tmp_path, RIGHT)
    assert study_archive(study=study, user=member).is_archived
    assert not study_archive(study=study, user=member, is_archived=False).is_archived


def test_a_stopped_study_goes_on_in_the_same_run(team: Any, member: Any, version: Any):
    study = submitted(team, member, version)
    assert study_stop(study=study, user=member) == "cancelled"
    study.refresh_from_db()
    study_go_on(study=study, user=member)
    study.refresh_from_db()
    assert study.run is not None and study.run.state == Run.State.QUEUED and Run.objects.count() == 1
    with pytest.raises(ColdframeError, match="only failed and cancelled"):
        study_go_on(study=study, user=member)


def test_of_boards_and_of_each_cell_only_the_newest_event_is_kept(team: Any, member: Any, version: Any):
    run = submitted(team, member, version).run
    assert run is not None
    claim = run_claim(run_id=run.pk, owner="w")
    assert claim is not None
    cell = {"key": "lora-s17", "state": "searching"}
    other = {"key": "lora-s18", "state": "searching"}
    run_record(claim=claim, events=[("cell", cell), ("board", {"n": 1}), ("phase", {"text": "a"}), ("cell", other)])
    run_record(claim=claim, events=[("board", {"n": 2}), ("cell", {**cell, "state": "training"}), ("board", {"n": 3}),
                                    ("cell", {**cell, "state": "done"}), ("phase", {"text": "b"})])  # fmt: skip
    kept = [(event.name, event.data) for event in run.events.all()]
    assert kept == [
        ("phase", {"text": "a"}), ("cell", other), ("board", {"n": 3}), ("cell", {**cell, "state": "done"}),
        ("phase", {"text": "b"}),
    ]  # fmt: skip
