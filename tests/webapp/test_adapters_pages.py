"""The library's pages: list, version, verdict, forms, and who gets to see them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from tests.webapp.library import measured, published
from webapp.models import Adapter, AdapterVersion, Alias, Team

SignIn = Callable[[Any], Client]


@pytest.fixture(autouse=True)
def served(settings: Any) -> None:
    """The base model of the library's adapters is among those that have engines."""
    settings.BASE_MODELS = (settings.BASE_MODEL, "tiny")


@pytest.fixture
def version(settings: Any, team: Team, member: Any, tmp_path: Path) -> AdapterVersion:
    settings.STORAGE_DIR = tmp_path / "storage"
    settings.STORAGE_DIR.mkdir()
    return published(
        team, tmp_path / "out", user=member, test=measured(0.967, 0.924, 0.986), plain=measured(0.247, 0.185, 0.321),
        README__md=b"---\nlicense: mit\n---\n# Card\n<script>alert(1)</script>\n\n![x](https://evil.example/x.png)\n",
    )  # fmt: skip


def test_the_library_lists_technique_metric_interval_and_size(
    client_of: SignIn, viewer: Any, version: AdapterVersion
) -> None:
    page = client_of(viewer).get(reverse("adapters:index")).content.decode()
    for text in ("triage@<b>1</b>", "LoRA", "lora_delta", "[92.4, 98.6]", "production", "tiny", "max"):
        assert text in page


def test_an_empty_library_leads_to_a_new_run(client_of: SignIn, viewer: Any) -> None:
    page = client_of(viewer).get(reverse("adapters:index")).content.decode()
    assert "Nothing has been grown yet" in page and reverse("runs:new") in page


def test_the_library_is_sorted_by_the_metric(
    client_of: SignIn, viewer: Any, team: Team, version: AdapterVersion, tmp_path: Path
) -> None:
    published(team, tmp_path / "weak", name="weak", test=measured(0.3, 0.2, 0.4))
    published(team, tmp_path / "best", name="best", test=measured(0.99, 0.98, 1.0))
    rows = client_of(viewer).get(reverse("adapters:index"), {"sort": "-metric"}).context["rows"]
    assert [row["adapter"].name for row in rows] == ["best", "triage", "weak"]


def test_the_library_is_filtered_by_technique_and_keeps_it_when_sorted(
    client_of: SignIn, viewer: Any, version: AdapterVersion
) -> None:
    response = client_of(viewer).get(reverse("adapters:index"), {"method": "prompt_tuning"})
    assert "No adapter matches" in response.content.decode()
    assert "method=prompt_tuning" in response.context["listing"].url(sort="name")


def test_the_library_never_shows_another_teams_adapters(
    client_of: SignIn, stranger: Any, version: AdapterVersion
) -> None:
    assert "triage" not in client_of(stranger).get(reverse("adapters:index")).content.decode()


def test_a_version_is_shown_beside_the_plain_model(client_of: SignIn, viewer: Any, version: AdapterVersion) -> None:
    page = client_of(viewer).get(reverse("adapters:detail", args=[version.adapter_id])).content.decode()
    for text in ("plain model, untouched", "[18.5, 32.1]", "questions@1", f"#{version.run_id}", "triage@production"):
        assert text in page


def test_the_model_card_is_inert(client_of: SignIn, viewer: Any, version: AdapterVersion) -> None:
    page = client_of(viewer).get(reverse("adapters:detail", args=[version.adapter_id])).content.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "<script>alert" not in page
    assert 'src="https://evil.example' not in page and "license: mit" not in page


@pytest.mark.parametrize("name", ["detail", "version", "download", "verdict"])
def test_another_team_does_not_find_it(client_of: SignIn, stranger: Any, version: AdapterVersion, name: str) -> None:
    args = [version.adapter_id, 1] if name in ("version", "download") else [version.adapter_id]
    assert client_of(stranger).get(reverse(f"adapters:{name}", args=args)).status_code == 404


@pytest.mark.parametrize("name", ["alias", "edit", "retire"])
def test_another_team_cannot_change_it(client_of: SignIn, stranger: Any, version: AdapterVersion, name: str) -> None:
    data = {"version": "1", "name": "mine", "state": "retired"}
    assert client_of(stranger).post(reverse(f"adapters:{name}", args=[version.adapter_id]), data).status_code == 404
    assert Adapter.objects.get().name == "triage" and not Adapter.objects.get().is_retired


@pytest.mark.parametrize("name", ["alias", "edit", "retire"])
def test_changes_are_never_made_by_get(client_of: SignIn, admin: Any, version: AdapterVersion, name: str) -> None:
    assert client_of(admin).get(reverse(f"adapters:{name}", args=[version.adapter_id])).status_code == 405


@pytest.mark.parametrize(("name", "role"), [("alias", "viewer"), ("edit", "viewer"), ("retire", "member")])
def test_a_role_that_is_too_low_is_refused(
    client_of: SignIn, request: pytest.FixtureRequest, version: AdapterVersion, name: str, role: str
) -> None:
    client = client_of(request.getfixturevalue(role))
    assert client.post(reverse(f"adapters:{name}", args=[version.adapter_id])).status_code == 403


def test_a_move_that_is_held_back_says_why_and_keeps_what_was_typed(
    client_of: SignIn, member: Any, team: Team, version: AdapterVersion, tmp_path: Path
) -> None:
    published(team, tmp_path / "b", test=measured(0.5, 0.4, 0.6), README__md=b"other")
    url = reverse("adapters:alias", args=[version.adapter_id])
    response = client_of(member).post(url, {"version": "2", "name": "production", "reason": ""})
    assert response.status_code == 422 and "is held back" in response.content.decode()
    assert '<option value="2" selected>' in response.content.decode()
    assert client_of(member).post(url, {"version": "2", "name": "production", "reason": "smaller"}).status_code == 302
    assert Alias.objects.get().version.number == 2


def test_the_verdict_is_told_before_the_move(
    client_of: SignIn, member: Any, team: Team, version: AdapterVersion, tmp_path: Path
) -> None:
    published(team, tmp_path / "b", test=measured(0.5, 0.4, 0.6), README__md=b"other")
    url = reverse("adapters:verdict", args=[version.adapter_id])
    page = client_of(member).get(url, {"version": "2", "name": "production"}).content.decode()
    assert "Held back" in page and "46.7 points below @1" in page


def test_a_version_that_does_not_exist_cannot_be_named(client_of: SignIn, member: Any, version: AdapterVersion) -> None:
    url = reverse("adapters:alias", args=[version.adapter_id])
    assert client_of(member).post(url, {"version": "99", "name": "production"}).status_code == 422


def test_a_bad_new_name_is_refused_beside_the_field(client_of: SignIn, member: Any, version: AdapterVersion) -> None:
    url = reverse("adapters:edit", args=[version.adapter_id])
    response = client_of(member).post(url, {"name": "two words", "description": "kept"})
    page = response.content.decode()
    assert response.status_code == 422 and "two words" in page and "kept" in page
    assert Adapter.objects.get().name == "triage"


def test_an_admin_retires_and_brings_back(client_of: SignIn, admin: Any, version: AdapterVersion) -> None:
    url, client = reverse("adapters:retire", args=[version.adapter_id]), client_of(admin)
    assert client.post(url, {"state": "retired"}).status_code == 302 and Adapter.objects.get().is_retired
    assert "Bring it back" in client.get(reverse("adapters:detail", args=[version.adapter_id])).content.decode()
    assert client.post(url, {"state": "in use"}).status_code == 302 and not Adapter.objects.get().is_retired
