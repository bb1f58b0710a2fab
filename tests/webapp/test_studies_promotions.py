"""From a study's entry to the library: versions with figures, an evaluation of the same rows, and the alias's gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ml.errors import ArtifactError, ColdframeError, SpecError
from tests.webapp.studying import N_TEST, data_version, published, submitted
from webapp import storage
from webapp.models import Adapter, AdapterVersion, AuditEvent, Evaluation, Prompt, PromptVersion, Study, StudyEntry
from webapp.selectors.adapters import alias_verdict
from webapp.selectors.evaluation_pairs import newest_pair
from webapp.selectors.evaluation_rows import rows_page
from webapp.selectors.studies import entry_of
from webapp.services.prompts import prompt_create
from webapp.services.study_promotions import study_promote

ALL = ["plain", "zero_shot", "few_shot", "few_shot_nearest", "self_consistency", "lora", "head"]
RIGHT = {
    "plain-s17": 3, "zero_shot-s17": 5, "few_shot-s17": 8, "few_shot_nearest-s17": 7, "self_consistency-s17": 4,
    "lora-s17": 11, "lora-s18": 10, "head-s17": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def stored(settings: Any, tmp_path: Path) -> None:
    """A storage of its own: some tests damage what lies in it."""
    settings.STORAGE_DIR = tmp_path / "storage"


@pytest.fixture
def study(team: Any, member: Any, tmp_path: Path) -> Study:
    version = data_version(team, tmp_path)
    asked = submitted(team, member, version, techniques=ALL, seeds=[17, 18])
    return published(asked, tmp_path, RIGHT, without_weights=["lora-s18"])


def entry(study: Study, key: str) -> StudyEntry:
    return entry_of(study=study, key=key)


def test_a_trained_entry_becomes_an_adapter_version_in_production(study: Study, member: Any):
    version = study_promote(entry=entry(study, "lora-s17"), user=member, name="triage")
    assert isinstance(version, AdapterVersion) and str(version) == "triage@1"
    assert (version.method, version.base_name, version.n_trainable) == ("lora", "tiny", 128)
    assert version.dataset_version == study.dataset_version and version.run is None
    assert version.metrics["test"]["accuracy"] == 11 / N_TEST and version.metrics["test"]["n_rows"] == N_TEST
    assert version.metrics["plain"]["accuracy"] == 3 / N_TEST and version.metrics["headline"]["name"] == "accuracy"
    assert (storage.path_of(version.storage_key) / "adapter_model.safetensors").read_bytes() == b"weights of lora-s17"
    assert version.adapter.aliases.get(name="production").version == version
    assert entry(study, "lora-s17").adapter_version == version
    assert AuditEvent.objects.get(action="study.promote").detail["entry"] == "lora-s17"


def test_promoting_twice_gives_the_same_version(study: Study, member: Any):
    first = study_promote(entry=entry(study, "lora-s17"), user=member, name="triage")
    stale = entry(study, "lora-s17")
    stale.adapter_version = None
    assert study_promote(entry=entry(study, "lora-s17"), user=member, name="") == first
    assert study_promote(entry=stale, user=member, name="triage") == first
    assert AdapterVersion.objects.count() == 1 and Evaluation.objects.count() == 1
    with pytest.raises(ColdframeError, match="as triage@1") as caught:
        study_promote(entry=entry(study, "lora-s17"), user=member, name="other")
    assert caught.value.status == 409


def test_without_an_alias_the_version_only_joins_the_library(study: Study, member: Any):
    version = study_promote(entry=entry(study, "lora-s17"), user=member, name="triage", alias="")
    assert isinstance(version, AdapterVersion) and not version.adapter.aliases.exists()


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("zero_shot-s17", {"technique": "zero_shot", "pick": "fixed", "examples": []}),
        ("few_shot-s17", {"technique": "few_shot", "examples": [{"question": "ticket number 1", "answer": "moving"}]}),
        ("few_shot_nearest-s17", {"technique": "few_shot", "pick": "nearest", "k": 2}),
        ("self_consistency-s17", {"technique": "chain_of_thought", "n_samples": 5}),
    ],
)
def test_an_asked_entry_becomes_a_prompt_version_as_it_was_asked(
    key: str, expected: dict[str, Any], study: Study, member: Any
):
    version = study_promote(entry=entry(study, key), user=member, name="queue")
    assert isinstance(version, PromptVersion) and version.system == "Reply with one of these: {labels}."
    assert {name: getattr(version, name) for name in expected} == expected
    assert version.dataset_version == study.dataset_version
    version.refresh_from_db()
    assert version.metrics["test"]["accuracy"] == RIGHT[key] / N_TEST
    assert version.prompt.aliases.get(name="production").version == version


def test_a_second_prompt_entry_becomes_the_next_version_of_that_prompt(study: Study, member: Any):
    study_promote(entry=entry(study, "zero_shot-s17"), user=member, name="queue")
    version = study_promote(entry=entry(study, "few_shot-s17"), user=member, name="queue", reason="more right")
    assert str(version) == "queue@2" and Prompt.objects.count() == 1


@pytest.mark.parametrize(
    ("key", "said"), [("plain-s17", "untouched model"), ("lora-s18", "weights of lora-s18 were not kept")]
)
def test_what_has_nothing_to_promote_says_why(key: str, said: str, study: Study, member: Any):
    with pytest.raises(SpecError, match=said):
        study_promote(entry=entry(study, key), user=member, name="triage")
    assert not Adapter.objects.exists() and not Prompt.objects.exists()


def test_a_failed_entry_is_not_promoted(team: Any, member: Any, tmp_path: Path):
    study = published(submitted(team, member, data_version(team, tmp_path)), tmp_path, {"plain-s17": 3},
                      failed=["lora-s17"])  # fmt: skip
    with pytest.raises(SpecError, match="was not measured"):
        study_promote(entry=entry(study, "lora-s17"), user=member, name="triage")


def test_names_of_adapters_and_prompts_do_not_meet(study: Study, team: Any, member: Any):
    prompt_create(team=team, user=member, name="triage", technique="zero_shot", template="{question}")
    with pytest.raises(SpecError, match="is a prompt 'triage' already"):
        study_promote(entry=entry(study, "lora-s17"), user=member, name="triage")
    study_promote(entry=entry(study, "lora-s17"), user=member, name="other")
    with pytest.raises(SpecError, match="is an adapter 'other'"):
        study_promote(entry=entry(study, "zero_shot-s17"), user=member, name="other")


def test_damaged_weights_are_refused_by_name(study: Study, member: Any):
    folder = storage.path_of(study.storage_key) / "artifacts" / "lora-s17"
    (folder / "adapter_model.safetensors").write_bytes(b"one flipped byte")
    with pytest.raises(ArtifactError, match=r"adapter_model.safetensors of lora-s17 is not what its manifest says"):
        study_promote(entry=entry(study, "lora-s17"), user=member, name="triage")
    assert not Adapter.objects.exists()


def test_files_that_are_gone_are_a_conflict(study: Study, member: Any):
    folder = storage.path_of(study.storage_key) / "artifacts" / "lora-s17"
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ColdframeError, match="not there any more") as caught:
        study_promote(entry=entry(study, "lora-s17"), user=member, name="triage")
    assert caught.value.status == 409


def test_the_answered_rows_become_an_evaluation_of_the_version(study: Study, member: Any):
    version = study_promote(entry=entry(study, "lora-s17"), user=member, name="triage")
    evaluation = Evaluation.objects.get()
    assert (evaluation.subject, evaluation.adapter_version, evaluation.run) == ("triage@1", version, None)
    assert evaluation.is_done and evaluation.metrics == {"accuracy": 11 / N_TEST}
    assert evaluation.figures["n_right"] == 11 and evaluation.figures["latency_p50_ms"] == 35.0
    assert sum(n for _, _, n in evaluation.figures["confusion"]) == N_TEST
    assert [row.index.place for row in rows_page(evaluation, {"show": "wrong"})] == [11]


def test_production_moves_freely_to_a_rival_that_was_better_on_the_same_rows(study: Study, member: Any):
    old = study_promote(entry=entry(study, "head-s17"), user=member, name="triage")
    new = study_promote(entry=entry(study, "lora-s17"), user=member, name="triage")
    pair = newest_pair(new, old)
    assert pair is not None and pair.n_rows == N_TEST and pair.differences[0].difference == pytest.approx(9 / N_TEST)
    assert "better than @1 on the same 12 test rows" in alias_verdict(version=new, incumbent=old).text
    assert Adapter.objects.get().aliases.get(name="production").version == new


def test_production_is_held_back_and_nothing_is_left_behind(study: Study, member: Any):
    study_promote(entry=entry(study, "lora-s17"), user=member, name="triage")
    with pytest.raises(ColdframeError, match=r"held back: @2 is 75.0 points worse") as caught:
        study_promote(entry=entry(study, "head-s17"), user=member, name="triage")
    assert (caught.value.code, caught.value.status) == ("held_back", 409)
    assert AdapterVersion.objects.count() == 1 and entry(study, "head-s17").adapter_version is None
    version = study_promote(entry=entry(study, "head-s17"), user=member, name="triage", reason="It is small.")
    assert str(version) == "triage@2"
    assert AuditEvent.objects.filter(action="alias.move").latest("pk").detail["reason"] == "It is small."


def test_a_later_study_is_compared_with_what_stands_in_the_library(
    study: Study, team: Any, member: Any, tmp_path: Path
):
    old = study_promote(entry=entry(study, "lora-s17"), user=member, name="triage")
    asked = submitted(team, member, study.dataset_version, techniques=["ia3"])
    later = published(asked, tmp_path, {"ia3-s17": 3})
    new = study_promote(entry=entry(later, "ia3-s17"), user=member, name="triage", alias="")
    verdict = alias_verdict(version=new, incumbent=old)
    assert verdict.is_held_back and "on the same 12 test rows" in verdict.text


def test_promoting_while_somebody_promotes_the_same_gives_one_version(study: Study, member: Any, monkeypatch: Any):
    """The second one's entry was read before the first one's version was there."""
    from webapp.services import study_promotions

    first_answers = study_promotions.answers_stored

    def meanwhile(found: StudyEntry) -> Any:
        monkeypatch.setattr(study_promotions, "answers_stored", first_answers)
        study_promote(entry=entry(study, "lora-s17"), user=member, name="triage")
        return first_answers(found)

    monkeypatch.setattr(study_promotions, "answers_stored", meanwhile)
    assert str(study_promote(entry=entry(study, "lora-s17"), user=member, name="triage")) == "triage@1"
    assert AdapterVersion.objects.count() == 1


def test_a_study_of_texts_is_promoted_with_its_own_metric_first(team: Any, member: Any, tmp_path: Path):
    version = data_version(team, tmp_path, task="generation")
    asked = submitted(team, member, version, techniques=["lora"], metric="exact_match")
    study = published(asked, tmp_path, {"lora-s17": 6})
    promoted = study_promote(entry=entry(study, "lora-s17"), user=member, name="writer")
    evaluation = Evaluation.objects.get(adapter_version=promoted)
    assert evaluation.main_metric == "exact_match" and not evaluation.spec["is_scored"]
    assert "confusion" not in evaluation.figures
    line = json.loads((storage.path_of(evaluation.storage_key) / "results.jsonl").open().readline())
    assert line["is_right"] is True and line["score"] == 1.0


def test_an_entry_s_files_are_looked_up_by_plain_names_only(study: Study, member: Any, tmp_path: Path):
    found = entry(study, "lora-s17")
    found.key = "../../secrets"
    with pytest.raises(ColdframeError, match="is not a storage key"):
        study_promote(entry=found, user=member, name="triage")
