"""Home, the shell's live parts, the search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from webapp.models import Adapter, Dataset, DatasetVersion, Run, Team
from webapp.selectors import home

pytestmark = pytest.mark.usefixtures("redis_url_unreachable")


def test_a_new_team_starts_with_bringing_data(team: Team, member: Any) -> None:
    steps = home.first_steps(team=team, user=member)
    assert [step.is_now for step in steps] == [True, False, False, False]
    assert all(step.done is None for step in steps)


def test_a_dataset_ticks_off_the_first_step(team: Team, member: Any) -> None:
    dataset = Dataset.objects.create(team=team, name="rows")
    DatasetVersion.objects.create(team=team, dataset=dataset, number=1, sha256="a" * 64, task="classification")
    steps = home.first_steps(team=team, user=member)
    assert str(steps[0].done) == "rows@1"
    assert steps[1].is_now


def test_home_says_so_when_the_engine_is_down(member: Any, client_of: Callable[[Any], Client]) -> None:
    page = client_of(member).get("/").content.decode()
    assert "The engine is not running" in page
    assert "First harvest" in page


def test_the_first_steps_can_be_hidden(member: Any, client_of: Callable[[Any], Client]) -> None:
    client = client_of(member)
    client.post("/home/steps/hide")
    assert "First harvest" not in client.get("/").content.decode()


def test_the_foot_shows_the_first_base_model_while_it_is_served(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    beats = [{"id": name, "base": name, "state": "ready"} for name in ("another", settings.BASE_MODEL)]
    monkeypatch.setattr(home, "engines", lambda: beats)
    assert home.bed()["model"] == settings.BASE_MODEL
    beats.pop()
    assert home.bed()["model"] == "another"


def test_running_work_is_counted_for_this_team_only(
    team: Team, other_team: Team, member: Any, client_of: Callable[[Any], Client]
) -> None:
    Run.objects.create(team=team, kind=Run.Kind.TRAIN, title="ours", state=Run.State.RUNNING)
    Run.objects.create(team=other_team, kind=Run.Kind.TRAIN, title="secret", state=Run.State.RUNNING)
    part = client_of(member).get("/running").content.decode()
    assert "1 running" in part
    assert "secret" not in part


def test_the_search_finds_names_of_this_team_only(
    team: Team, other_team: Team, member: Any, client_of: Callable[[Any], Client]
) -> None:
    Adapter.objects.create(team=team, name="triage-ours")
    Adapter.objects.create(team=other_team, name="triage-secret")
    page = client_of(member).get("/search?q=triage").content.decode()
    assert "triage-ours" in page
    assert "triage-secret" not in page


def test_a_search_is_shown_escaped(member: Any, client_of: Callable[[Any], Client]) -> None:
    page = client_of(member).get("/search", {"q": "<script>alert(1)</script>"}).content.decode()
    assert "<script>alert" not in page


def test_the_demo_login_is_shown_only_while_it_is_true(db: None, settings: Any) -> None:
    from django.contrib.auth import get_user_model

    settings.DEMO, settings.IS_LOOPBACK = True, True
    assert "cold-frame-demo" not in Client().get("/accounts/login/").content.decode()
    user = get_user_model().objects.create_user("demo", password="cold-frame-demo")
    assert "cold-frame-demo" in Client().get("/accounts/login/").content.decode()
    settings.IS_LOOPBACK = False
    assert "cold-frame-demo" not in Client().get("/accounts/login/").content.decode()
    settings.IS_LOOPBACK = True
    user.set_password("something-else-now")
    user.save()
    assert "cold-frame-demo" not in Client().get("/accounts/login/").content.decode()


def test_nobody_can_sign_up_by_themselves(db: None) -> None:
    response = Client().post(
        "/accounts/signup/", {"username": "x", "password1": "a-long-one-9", "password2": "a-long-one-9"}
    )
    assert "Sign-up is closed" in response.content.decode()


def test_signing_in_by_the_form_works_and_leads_home(member: Any) -> None:
    member.set_password("a-long-password-1")
    member.save()
    client = Client()
    response = client.post("/accounts/login/", {"login": "max", "password": "a-long-password-1"})
    assert (response.status_code, response["Location"]) == (302, "/")
    assert client.get("/").status_code == 200


def test_a_wrong_password_keeps_the_name_that_was_typed(member: Any) -> None:
    page = Client().post("/accounts/login/", {"login": "max", "password": "wrong"}).content.decode()
    assert 'value="max"' in page
    assert "cf-problem" in page
