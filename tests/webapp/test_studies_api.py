"""/v1/studies: start, list, read, extend, stop, go on, promote, and the report as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from tests.webapp.studying import data_version, published, submitted
from webapp.models import PromptVersion, Run, Study
from webapp.services.teams import token_create

RIGHT = {"plain-s17": 4, "zero_shot-s17": 6, "lora-s17": 11}
BODY = {"name": "Which one?", "dataset": "tickets@1", "base": "tiny", "techniques": ["zero_shot", "lora"]}


class Api:
    """Speaks JSON with a token."""

    def __init__(self, team: Any, user: Any, role: str = "member") -> None:
        token = token_create(team=team, user=user, name="t", role=role)[1]
        self.headers, self.client = {"Authorization": f"Bearer {token}"}, Client()

    def get(self, path: str) -> Any:
        return self.client.get(f"/v1/studies{path}", headers=self.headers)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self.client.post(f"/v1/studies{path}", body or {}, content_type="application/json",
                                headers=self.headers)  # fmt: skip


@pytest.fixture
def api(team: Any, member: Any) -> Api:
    return Api(team, member)


@pytest.fixture
def version(team: Any, tmp_path: Path) -> Any:
    return data_version(team, tmp_path)


@pytest.fixture
def study(team: Any, member: Any, version: Any, tmp_path: Path) -> Study:
    return published(submitted(team, member, version), tmp_path, RIGHT)


def test_a_study_is_started_and_read(api: Api, version: Any):
    made = api.post("", {**BODY, "seeds": [17, 18], "n_tries": 2, "budget_s": 600})
    assert made.status_code == 201 and made.json()["state"] == "waiting" and made.json()["cells"]["total"] == 3
    found = api.get(f"/{made.json()['id']}").json()
    assert found["spec"]["seeds"] == [17, 18] and found["dataset"] == "tickets@1" and found["board"] is None
    assert [entry["entry"] for entry in found["entries"]] == ["zero_shot-s17", "lora-s17", "lora-s18"]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"techniques": "lora"}, "techniques"), ({"dataset": "tickets@9"}, "dataset"), ({"name": 3}, "name"),
        ({"dataset_sha256": "0"}, "dataset_sha256"), ({"steps": "many"}, "steps"), ({"sleep": 1}, "sleep"),
        ({"base": None}, "base"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_the_field(api: Api, version: Any, given: dict[str, Any], param: str):
    response = api.post("", {**BODY, **given})
    assert response.status_code in (400, 404) and response.json()["error"]["param"] == param
    assert not Study.objects.exists()


def test_a_finished_study_has_its_board_and_where_it_came_from(api: Api, study: Study):
    found = api.get(f"/{study.pk}").json()
    assert found["state"] == "done" and found["board"]["take"] == "lora" and found["about"]["command"]
    lora = next(entry for entry in found["entries"] if entry["entry"] == "lora-s17")
    assert lora["can_be_promoted"] and lora["figure"]["interval"] == [pytest.approx(11 / 12 - 0.2), 1.0]
    listed = api.get("").json()["data"]
    assert [row["id"] for row in listed] == [study.pk] and listed[0]["best"]["technique"] == "lora"
    assert listed[0]["finding"] == "Take lora."


def test_a_study_is_extended_once_at_a_time(api: Api, study: Study):
    grown = api.post(f"/{study.pk}/extend", {"techniques": ["ia3"], "seeds": [18], "budget_s": 60})
    assert (
        grown.status_code == 200 and grown.json()["state"] == "waiting" and "ia3" in grown.json()["spec"]["techniques"]
    )
    again = api.post(f"/{study.pk}/extend", {"techniques": ["head"]})
    assert again.status_code == 409 and again.json()["error"]["code"] == "active"


@pytest.mark.parametrize(
    "body", [{"techniques": "ia3"}, {"seeds": ["18"]}, {"seeds": [True]}, {"shares": 0.5}, {"hurry": 1}]
)
def test_an_extension_by_something_else_is_refused(api: Api, study: Study, body: dict[str, Any]):
    response = api.post(f"/{study.pk}/extend", body)
    assert response.status_code == 400 and response.json()["error"]["param"] == next(iter(body))


def test_a_study_is_stopped_and_gone_on_with(api: Api, team: Any, member: Any, version: Any):
    study = submitted(team, member, version)
    stopped = api.post(f"/{study.pk}/stop").json()
    assert (stopped["outcome"], stopped["state"]) == ("cancelled", "stopped")
    assert api.post(f"/{study.pk}/continue").json()["state"] == "waiting"
    assert api.post(f"/{study.pk}/continue").status_code == 409
    Run.objects.update(state=Run.State.SUCCEEDED)
    assert api.post(f"/{study.pk}/stop").json()["outcome"] == "too_late"


def test_a_prompt_that_is_promoted_stands_on_the_base_model_of_its_study(api: Api, study: Study):
    assert study.base_name != settings.BASE_MODEL
    api.post(f"/{study.pk}/promote", {"entry": "zero_shot-s17", "name": "queue", "alias": ""})
    assert PromptVersion.objects.get().base_name == study.base_name


def test_an_entry_is_promoted_and_held_back_where_it_is_worse(api: Api, study: Study):
    made = api.post(f"/{study.pk}/promote", {"entry": "lora-s17", "name": "triage"}).json()
    assert made == {"object": "adapter.version", "version": "triage@1", "alias": "production", "model": "triage@1"}
    prompt = api.post(f"/{study.pk}/promote", {"entry": "zero_shot-s17", "name": "queue", "alias": ""}).json()
    assert prompt["model"] == "prompt:queue@1" and prompt["alias"] is None
    assert api.post(f"/{study.pk}/promote", {"entry": "plain-s17", "name": "x"}).status_code == 400
    assert api.post(f"/{study.pk}/promote", {"entry": "none", "name": "x"}).status_code == 404
    versions = {entry["entry"]: entry["version"] for entry in api.get(f"/{study.pk}").json()["entries"]}
    assert versions["lora-s17"] == "triage@1"


@pytest.mark.parametrize(("ending", "kind"), [("html", "text/html"), ("md", "text/markdown"), ("csv", "text/csv")])
def test_a_report_is_a_file_that_runs_nothing(api: Api, study: Study, ending: str, kind: str):
    response = api.get(f"/{study.pk}/report/{ending}")
    assert response.headers["Content-Type"].startswith(kind) and response.content == b"<p>report</p>"
    assert response.headers["Content-Disposition"] == f'attachment; filename="study-{study.pk}.{ending}"'
    assert response.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"


def test_a_viewer_reads_and_writes_nothing(study: Study, team: Any, viewer: Any):
    api = Api(team, viewer, role="viewer")
    assert api.get(f"/{study.pk}").status_code == 200
    for path, body in (
        ("", BODY),
        (f"/{study.pk}/extend", {}),
        (f"/{study.pk}/stop", {}),
        (f"/{study.pk}/promote", {}),
    ):
        assert api.post(path, body).status_code == 403


def test_another_team_finds_nothing(study: Study, other_team: Any, stranger: Any):
    api = Api(other_team, stranger)
    assert api.get("").json()["data"] == [] and api.get(f"/{study.pk}").status_code == 404
    assert api.post(f"/{study.pk}/promote", {"entry": "lora-s17", "name": "x"}).status_code == 404
    assert api.get(f"/{study.pk}/report/html").status_code == 404
