"""The plan beside the form of a new study: asked of an engine with what is known of the rows; never in the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from ml.errors import SpecError, UnavailableError
from tests.webapp.planner import Planner, planner
from tests.webapp.run_forms import bases
from tests.webapp.studying import data_version, published, submitted
from webapp.models import DatasetVersion, Study, StudyEntry
from webapp.selectors.run_memory import NO_ENGINE
from webapp.selectors.study_plan import calibration, data_of

SAID: dict[str, Any] = {
    "techniques": [
        {"technique": "plain", "total_s": 20.0, "is_chosen": True},
        {"technique": "lora", "total_s": 300.0, "is_chosen": True, "peak_bytes": 2_360_000_000, "verdict": "fits"},
        {"technique": "full", "total_s": 1500.0, "is_chosen": False, "peak_bytes": 4_180_000_000, "verdict": "tight"},
    ],
    "total_s": 320.0, "budget_s": 1800.0, "n_done": 3, "n_all": 3,
}  # fmt: skip


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Planner:
    return planner(monkeypatch, "webapp.selectors.study_plan", SAID)


@pytest.fixture
def version(team: Any, tmp_path: Path) -> DatasetVersion:
    bases()
    return data_version(team, tmp_path)


def times(client: Client, version: DatasetVersion, **changes: Any) -> str:
    form = client.get("/studies/new/").context["form"]
    values = {name: form[name].value() for name in form.fields}
    merged = {**values, **changes}
    given = {name: value for name, value in merged.items() if value is not None and value is not False}
    response = client.post("/studies/new/times/", given)
    assert response.status_code == 200
    return response.content.decode()


def test_each_technique_has_its_time_and_what_no_longer_fits_its_need(
    client_of: Any, member: Any, version: DatasetVersion, service: Planner
) -> None:
    said = times(client_of(member), version)
    assert "left out, needs" in said
    assert "2.4 GB" in said
    assert "tight" in said


def test_the_engine_is_told_what_the_report_knows_of_the_rows(
    client_of: Any, member: Any, version: DatasetVersion, service: Planner
) -> None:
    lengths = {"base": "tiny", "longest": 140, "step": 10, "bars": [0, 3, 1] + [0] * 21}
    row = {"row": 9, "messages": [{"role": "user", "content": "No light."}], "completion": "outage"}
    DatasetVersion.objects.filter(pk=version.pk).update(stats={"tokens": lengths, "samples": [row]})
    times(client_of(member), version, base="tiny")
    asked = service.asked[-1]
    assert asked["task"] == "classification"
    assert asked["study"]["budget_s"] == 1800
    assert asked["calibration"] == {}
    assert asked["data"] == {
        "n_rows": version.splits, "labels": version.labels, "mapping": version.mapping,
        "lengths": {"unit": "tokens", "mean": 17.5, "longest": 140},
        "sample": [{"messages": row["messages"], "completion": "outage"}],
    }  # fmt: skip


def test_a_form_that_is_not_right_yet_asks_nobody(
    client_of: Any, member: Any, version: DatasetVersion, service: Planner
) -> None:
    assert "nothing is left to mend" in times(client_of(member), version, seeds="x")
    assert service.asked == []


def test_without_an_engine_the_page_says_so(
    client_of: Any, member: Any, version: DatasetVersion, service: Planner
) -> None:
    service.engines = []
    assert NO_ENGINE in times(client_of(member), version)


def test_a_planner_that_is_busy_is_asked_again(
    client_of: Any, member: Any, version: DatasetVersion, service: Planner
) -> None:
    service.said = UnavailableError("late")
    assert 'hx-trigger="load delay:2s"' in times(client_of(member), version)


def test_a_plan_that_is_not_whole_says_how_far_it_is_and_is_asked_for_again(
    client_of: Any, member: Any, version: DatasetVersion, service: Planner
) -> None:
    service.said = {**SAID, "n_all": 16}
    said = times(client_of(member), version)
    assert "Planning: 3 of 16 techniques" in said
    assert 'hx-trigger="load delay:2s"' in said


def test_a_refusal_is_shown_as_it_is(client_of: Any, member: Any, version: DatasetVersion, service: Planner) -> None:
    service.said = SpecError("No such model.", hint="Choose another.")
    assert "No such model. Choose another." in times(client_of(member), version)


def test_viewers_do_not_plan(client_of: Any, viewer: Any, version: DatasetVersion, service: Planner) -> None:
    assert client_of(viewer).post("/studies/new/times/", {}).status_code == 403


@pytest.mark.parametrize("tokens", [{}, {"base": "another", "longest": 9, "step": 1, "bars": [5]}])
def test_lengths_go_by_characters_where_no_tokens_were_counted_for_the_model(
    version: DatasetVersion, tokens: dict[str, Any]
) -> None:
    version.stats = {"tokens": tokens, "characters": {"longest": 900, "step": 100, "bars": [1, 1]}}
    assert data_of(version, "tiny")["lengths"] == {"unit": "characters", "mean": 100.0, "longest": 900}


def test_a_report_without_samples_gives_way_to_the_rows_themselves(version: DatasetVersion) -> None:
    found = data_of(version, "tiny")
    assert len(found["sample"]) == version.splits["train"]
    assert found["sample"][0]["messages"][0]["content"] == "Message: ticket number 1"
    assert found["lengths"] == {}


def test_what_earlier_studies_took_corrects_the_next_plan_by_technique(
    team: Any, member: Any, version: DatasetVersion, tmp_path: Path
) -> None:
    study = published(
        submitted(team, member, version, techniques=["plain", "lora"]),
        tmp_path / "out",
        {"plain-s17": 6, "lora-s17": 6},
    )
    assert calibration(team=team, base=study.base_name) == {}
    planned = [{"technique": "plain", "search_s": 0, "train_s": 0, "measure_s": 4.0, "factor": 2.0},
               {"technique": "lora", "search_s": 5.0, "train_s": 10.0, "measure_s": 1.0}]  # fmt: skip
    Study.objects.filter(pk=study.pk).update(planned={"techniques": planned})
    for technique, seconds in (("plain", 6.0), ("lora", 12.0)):
        StudyEntry.objects.filter(study=study, technique=technique).update(summary={"seconds": seconds})
    assert calibration(team=team, base=study.base_name) == {"plain": 3.0, "lora": 0.75, "": 1.0}
    assert calibration(team=team, base="another") == {}


def test_a_factor_that_no_machine_has_is_bounded(
    team: Any, member: Any, version: DatasetVersion, tmp_path: Path
) -> None:
    study = published(submitted(team, member, version, techniques=["plain"]), tmp_path / "out", {"plain-s17": 6})
    planned = [{"technique": "plain", "search_s": 0, "train_s": 0, "measure_s": 0.001}]
    Study.objects.filter(pk=study.pk).update(planned={"techniques": planned})
    StudyEntry.objects.filter(study=study).update(summary={"seconds": 600.0})
    assert calibration(team=team, base=study.base_name)["plain"] == 5.0
