"""The pages and the API call of runs: who may, what is kept, what is refused and how it is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from ml.errors import SpecError, UnavailableError
from ml.specs import METHODS
from tests.webapp.run_forms import filled, own, version_of
from webapp.models import DatasetVersion, Run, Team
from webapp.services import runs as services
from webapp.services.run_leases import run_claim, run_fail, run_record, run_started
from webapp.services.runs import training_submit
from webapp.services.teams import token_create

ClientOf = Callable[[Any], Client]


@pytest.fixture(autouse=True)
def doorbells(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Runs whose message was sent; nothing asks a broker."""
    rung: list[int] = []
    monkeypatch.setattr(services, "enqueue", lambda kind, run_id: rung.append(run_id))
    return rung


@pytest.fixture
def version(team: Team) -> DatasetVersion:
    return version_of(team)


@pytest.fixture
def run(team: Team, version: DatasetVersion, member: Any) -> Run:
    given = {"method": next(iter(METHODS)), "base": "tiny", "steps": 10}
    return training_submit(team=team, user=member, adapter="ada", dataset_version_id=version.pk, given=given)


def test_the_untouched_form_starts_a_run_and_rings_once(
    client_of: ClientOf,
    member: Any,
    version: DatasetVersion,
    doorbells: list[int],
    django_capture_on_commit_callbacks: Any,
) -> None:
    client = client_of(member)
    with django_capture_on_commit_callbacks(execute=True):
        answer = client.post("/runs/new/", filled(client))
    run = Run.objects.get()
    assert answer.headers["Location"] == f"/runs/{run.pk}/" and doorbells == [run.pk]
    assert run.spec["adapter"] == "intents" and run.spec["dataset_sha256"] == version.sha256
    assert run.outbox.get().sent_at is not None and run.dataset_version == version


def test_a_data_set_of_one_label_is_refused_before_anything_is_queued(team: Team, member: Any) -> None:
    version = version_of(team)
    DatasetVersion.objects.filter(pk=version.pk).update(labels=["calm"])
    given = {"method": next(iter(METHODS)), "base": "tiny", "steps": 10}
    with pytest.raises(SpecError, match="the same label, 'calm': there is nothing to learn") as caught:
        training_submit(team=team, user=member, adapter="ada", dataset_version_id=version.pk, given=given)
    assert caught.value.field == "dataset"
    assert not Run.objects.exists()


@pytest.mark.parametrize("method", METHODS)
def test_every_technique_can_be_started_with_its_own_defaults(
    client_of: ClientOf, member: Any, version: DatasetVersion, method: str
) -> None:
    client = client_of(member)
    assert client.post("/runs/new/", filled(client, method=method)).status_code == 302
    spec = Run.objects.get().spec
    row = METHODS[method]
    assert spec["learning_rate"] == row.defaults["learning_rate"]
    assert spec["options"] == {field.name: field.default for field in row.fields}


@pytest.mark.parametrize(
    ("value", "rule"), [("0", "≥ 1e-08"), ("nan", "finite"), ("-1", "≥"), ("much", "a number"), ("", "a number")]
)
def test_a_learning_rate_that_cannot_be_is_refused_and_what_was_typed_stays(
    client_of: ClientOf, member: Any, version: DatasetVersion, value: str, rule: str
) -> None:
    client = client_of(member)
    key = f"{next(iter(METHODS))}-learning_rate"
    answer = client.post("/runs/new/", filled(client, **{key: value, own("steps"): "77"}))
    page = answer.content.decode()
    assert answer.status_code == 422 and not Run.objects.exists()
    assert rule in page and 'value="77"' in page and "is-invalid" in page


@pytest.mark.parametrize("name", ["no spaces", "../etc", "a" * 81, "", "12", "ünï"])
def test_an_adapter_name_that_cannot_be_typed_is_refused(
    client_of: ClientOf, member: Any, version: DatasetVersion, name: str
) -> None:
    client = client_of(member)
    answer = client.post("/runs/new/", filled(client, adapter=name))
    assert answer.status_code == 422 and not Run.objects.exists()


def test_settings_typed_for_another_technique_stay_when_the_form_comes_back(
    client_of: ClientOf, member: Any, version: DatasetVersion
) -> None:
    second = list(METHODS)[1]
    client = client_of(member)
    page = client.post(
        "/runs/new/", filled(client, **{own("steps"): "0", f"{second}-learning_rate": "0.0123"})
    ).content.decode()
    assert 'value="0.0123"' in page


def test_a_data_set_of_another_team_does_not_exist(
    client_of: ClientOf, member: Any, version: DatasetVersion, other_team: Team
) -> None:
    foreign = version_of(other_team, "secret")
    client = client_of(member)
    answer = client.post("/runs/new/", filled(client, dataset_version=foreign.pk))
    assert answer.status_code == 404 and "secret" not in answer.content.decode() and not Run.objects.exists()


def test_without_a_data_set_the_form_says_what_to_do(client_of: ClientOf, member: Any) -> None:
    page = client_of(member).get("/runs/new/").content.decode()
    assert "There is no data set to learn from" in page and "Add data" in page


def test_viewers_see_runs_and_start_none(client_of: ClientOf, viewer: Any, run: Run) -> None:
    client = client_of(viewer)
    assert client.get(f"/runs/{run.pk}/").status_code == 200
    assert client.get("/runs/new/").status_code == 403
    assert client.post(f"/runs/{run.pk}/cancel/").status_code == 403


@pytest.mark.parametrize("path", ["", "live/"])
def test_another_teams_run_does_not_exist(client_of: ClientOf, stranger: Any, run: Run, path: str) -> None:
    assert client_of(stranger).get(f"/runs/{run.pk}/{path}").status_code == 404
    assert client_of(stranger).post(f"/runs/{run.pk}/cancel/").status_code == 404
    assert client_of(stranger).get(f"/runs/new/?clone={run.pk}").status_code == 404


def test_a_broker_that_is_away_keeps_the_run_and_says_so(
    client_of: ClientOf, member: Any, version: DatasetVersion, monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Any,
) -> None:  # fmt: skip
    def away(kind: str, run_id: int) -> None:
        raise UnavailableError("The queue does not answer.")

    monkeypatch.setattr(services, "enqueue", away)
    client = client_of(member)
    with django_capture_on_commit_callbacks(execute=True):
        assert client.post("/runs/new/", filled(client)).status_code == 302
    run = Run.objects.get()
    assert run.state == Run.State.QUEUED and run.outbox.get().sent_at is None
    assert "will start on its own" in client.get(f"/runs/{run.pk}/").content.decode()


def test_cloning_fills_the_form_with_the_runs_settings(client_of: ClientOf, member: Any, run: Run) -> None:
    form = client_of(member).get(f"/runs/new/?clone={run.pk}").context["form"]
    assert form[own("steps")].value() == 10 and form["adapter"].value() == "ada"
    assert form["dataset_version"].value() == str(run.dataset_version_id)


def test_the_preview_shows_the_spec_as_it_would_be_saved(
    client_of: ClientOf, member: Any, version: DatasetVersion
) -> None:
    client = client_of(member)
    page = client.post("/runs/new/preview/", filled(client, **{own("steps"): "33"})).content.decode()
    assert "steps: 33" in page and "intents@1" in page and 'hx-swap-oob="true"' in page
    assert "528" in page and "13.2 passes" in page


def test_cancelling_a_waiting_run_ends_it_at_once(client_of: ClientOf, member: Any, run: Run) -> None:
    client_of(member).post(f"/runs/{run.pk}/cancel/")
    run.refresh_from_db()
    assert run.state == Run.State.CANCELLED and run.finished_at


def test_a_failed_run_shows_message_and_advice_and_can_be_tried_again(
    client_of: ClientOf, member: Any, run: Run
) -> None:
    claim = run_claim(run_id=run.pk, owner="w")
    assert claim
    run_fail(claim=claim, error={"message": "It diverged.", "hint": "Use <less>."})
    client = client_of(member)
    page = client.get(f"/runs/{run.pk}/").content.decode()
    assert "It diverged." in page and "Use &lt;less&gt;." in page
    client.post(f"/runs/{run.pk}/retry/")
    run.refresh_from_db()
    assert run.state == Run.State.QUEUED and run.attempt == 0 and run.error is None and run.outbox.count() == 2


def test_a_run_that_is_not_over_cannot_be_tried_again(client_of: ClientOf, member: Any, run: Run) -> None:
    answer = client_of(member).post(f"/runs/{run.pk}/retry/", follow=True)
    assert "only failed and cancelled runs" in answer.content.decode() and run.outbox.count() == 1


def work_on(run: Run) -> None:
    claim = run_claim(run_id=run.pk, owner="w")
    assert claim and run_started(claim=claim)
    sample = {
        "row": 3,
        "prompt": "<script>alert(1)</script>",
        "expected": "x",
        "got": "y",
        "correct": False,
        "loss": 2.0,
    }
    plain = {"step": 0, "split": "validation", "subject": "plain", "metrics": {"accuracy": 0.2}, "n_rows": 5}
    own = {
        "step": 2, "split": "validation", "subject": "adapter", "metrics": {"accuracy": 0.8, "loss": 0.5}, "n_rows": 5,
        "samples": [sample],
    }  # fmt: skip
    run_record(
        claim=claim, progress={"done": 2, "total": 10, "loss": 0.7, "eta_s": 8},
        events=[("eval", plain), ("eval", own)],
        metrics=[{"step": 1, "loss": 0.9, "learning_rate": 0.1, "grad_norm": 1.0}, {"step": 2, "loss": 0.7}],
    )  # fmt: skip


def test_the_live_answer_holds_only_what_is_new(client_of: ClientOf, viewer: Any, run: Run) -> None:
    work_on(run)
    client = client_of(viewer)
    news = client.get(f"/runs/{run.pk}/live/?after=1&event=0").json()
    assert news["curves"]["step"] == [2] and news["curves"]["loss"] == [0.7] and news["state"] == "running"
    assert news["evals"]["plain"] == 0.2 and news["evals"]["value"] == [0.8] and "samples" in news["html"]
    again = client.get(f"/runs/{run.pk}/live/?after=2&event={news['last_event']}").json()
    assert again["curves"]["step"] == [] and set(again["html"]) == {"status", "state"}


def test_the_page_shows_the_score_beside_the_untouched_models(client_of: ClientOf, viewer: Any, run: Run) -> None:
    work_on(run)
    page = client_of(viewer).get(f"/runs/{run.pk}/").content.decode()
    assert "80.0 <small>" in page and "20.0 <small>" in page and "Untouched model" in page


def test_what_the_model_said_is_never_markup(client_of: ClientOf, viewer: Any, run: Run) -> None:
    work_on(run)
    page = client_of(viewer).get(f"/runs/{run.pk}/").content.decode()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_a_step_reported_again_after_a_resume_counts_once(run: Run) -> None:
    claim = run_claim(run_id=run.pk, owner="w")
    assert claim
    run_record(claim=claim, metrics=[{"step": 1, "loss": 2.0}])
    run_record(claim=claim, metrics=[{"step": 1, "loss": 1.0}])
    assert [metric.data["loss"] for metric in run.metrics.all()] == [1.0]


def test_the_list_says_why_a_run_waits_and_names_no_other_team(
    client_of: ClientOf, member: Any, run: Run, other_team: Team, stranger: Any
) -> None:
    foreign = version_of(other_team, "secret")
    given = {"method": run.spec["method"], "base": "tiny"}
    training_submit(team=other_team, user=stranger, adapter="offlimits", dataset_version_id=foreign.pk, given=given)
    page = client_of(member).get("/runs/").content.decode()
    assert "ada" in page and "Waiting for a worker" in page and "offlimits" not in page


def test_the_list_can_be_narrowed_and_sorted(client_of: ClientOf, member: Any, run: Run) -> None:
    services.run_cancel(run=run)
    client = client_of(member)
    assert "ada" in client.get("/runs/?q=ad&state=cancelled&sort=title").content.decode()
    assert "No finished run matches" in client.get("/runs/?state=failed").content.decode()


def test_the_api_starts_the_run_that_the_page_shows(
    team: Team, member: Any, version: DatasetVersion, client: Client
) -> None:
    _, token = token_create(team=team, user=member, name="ci")
    headers = {"Authorization": f"Bearer {token}"}
    body = {"adapter": "ada", "dataset": "intents@1", "method": next(iter(METHODS)), "base": "tiny", "steps": 5}
    answer = client.post("/v1/runs", json.dumps(body), content_type="application/json", headers=headers)
    assert answer.status_code == 201 and answer.json()["spec"]["steps"] == 5
    assert client.get(f"/v1/runs/{answer.json()['id']}", headers=headers).json()["state"] == "queued"


@pytest.mark.parametrize(
    ("change", "status"),
    [({"typo": 1}, 400), ({"learning_rate": 0}, 400), ({"dataset": "intents@2"}, 404), ({"adapter": ["x"]}, 400),
     ({"options": {"nope": 1}}, 400), ({"method": "magic"}, 400), ({"dataset": 7}, 404)],
)  # fmt: skip
def test_the_api_refuses_in_plain_words(
    team: Team, member: Any, version: DatasetVersion, client: Client, change: dict[str, Any], status: int
) -> None:
    _, token = token_create(team=team, user=member, name="ci")
    body = {"adapter": "ada", "dataset": "intents@1", "method": next(iter(METHODS)), "base": "tiny", **change}
    answer = client.post(
        "/v1/runs", json.dumps(body), content_type="application/json", headers={"Authorization": f"Bearer {token}"}
    )
    assert answer.status_code == status and answer.json()["error"]["message"] and not Run.objects.exists()
