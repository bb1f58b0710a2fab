"""Which techniques, base models and data sets go together: greyed out with the reason, and refused with the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from ml.specs import GROUPS, METHODS, how_served, why_not_served
from tests.webapp.run_forms import bases, filled, version_of
from webapp.models import Run, Team
from webapp.selectors.techniques import base_reason, card_groups, reasons
from webapp.services import runs as services
from webapp.services.teams import token_create

ClientOf = Callable[[Any], Client]
LIMITED = next(method for method in METHODS.values() if "generation" not in method.tasks)
"""A technique that cannot write free text."""


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, db: None) -> None:
    monkeypatch.setattr(services, "enqueue", lambda kind, run_id: None)
    bases()


def test_the_cards_stand_in_groups_and_every_technique_has_one(client_of: ClientOf, member: Any, team: Team) -> None:
    version_of(team)
    page = client_of(member).get("/runs/new/").content.decode()
    assert all(f'value="{name}"' in page for name in METHODS)
    assert page.count('class="cf-techcard"') == len(METHODS)
    assert all(group.title.replace("'", "&#x27;") in page for group in GROUPS)


def test_a_card_that_the_data_cannot_have_is_disabled_with_the_reason(
    client_of: ClientOf, member: Any, team: Team
) -> None:
    version_of(team, "letters", "generation")
    page = client_of(member).get("/runs/new/").content.decode()
    card = page.split(f'value="{LIMITED.name}"')[1].split("</label>")[0]
    assert card.startswith(" disabled>") and LIMITED.not_for["generation"] in card


def test_all_families_that_can_be_trained_are_offered_and_no_embedder(
    client_of: ClientOf, member: Any, team: Team
) -> None:
    version_of(team)
    form = client_of(member).get("/runs/new/").context["form"]
    assert list(form.bases) == ["tiny", "tiny-both", "tiny-encoder"] and not form.base_note


def test_an_encoder_is_greyed_out_for_free_answers_and_said_why(client_of: ClientOf, member: Any, team: Team) -> None:
    version_of(team, "letters", "generation")
    page = client_of(member).get("/runs/new/").content.decode()
    option = page.split('<option value="tiny-encoder"')[1].split(">")[0]
    assert "disabled" in option and 'data-family="encoder"' in option
    assert "An encoder model gives labels, not text" in page


@pytest.mark.parametrize(
    ("task", "changes", "reason"),
    [
        ("generation", {"method": LIMITED.name}, LIMITED.not_for["generation"]),
        ("classification", {"method": LIMITED.name, "base": "tiny-both"}, LIMITED.not_for["encoder_decoder"]),
        ("generation", {"base": "tiny-encoder"}, "gives labels, not text"),
        ("classification", {"base": "tiny-vectors"}, "no base model tiny-vectors here"),
    ],
)
def test_asking_for_it_anyway_gives_the_reason_and_keeps_the_choice(
    client_of: ClientOf, member: Any, team: Team, task: str, changes: dict[str, str], reason: str
) -> None:
    version_of(team, "rows", task)
    client = client_of(member)
    answer = client.post("/runs/new/", filled(client, **changes))
    page = answer.content.decode()
    assert answer.status_code == 422 and reason in page and not Run.objects.exists()
    if "method" in changes:
        assert f'value="{LIMITED.name}" checked' in page


@pytest.mark.parametrize(
    ("task", "changes", "reason", "param"),
    [
        ("generation", {"method": LIMITED.name}, LIMITED.not_for["generation"], "method"),
        ("generation", {"base": "tiny-encoder"}, "gives labels, not text", "base"),
        ("classification", {"base": "tiny-vectors"}, "no base model 'tiny-vectors'", "base"),
        ("classification", {"base": "nowhere"}, "tiny, tiny-both, tiny-encoder", "base"),
    ],
)
def test_the_api_gives_the_same_reason_as_a_400(
    client: Client, member: Any, team: Team, task: str, changes: dict[str, str], reason: str, param: str
) -> None:
    version_of(team, "rows", task)
    _, token = token_create(team=team, user=member, name="ci")
    body = {"adapter": "ada", "dataset": "rows@1", "method": next(iter(METHODS)), "base": "tiny", **changes}
    answer = client.post(
        "/v1/runs", json.dumps(body), content_type="application/json", headers={"Authorization": f"Bearer {token}"}
    )
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and not Run.objects.exists()
    assert reason in error["message"]


@pytest.mark.parametrize("base", ["tiny-encoder", "tiny-both"])
def test_other_families_start_with_what_they_can_have(client_of: ClientOf, member: Any, team: Team, base: str) -> None:
    version_of(team)
    client = client_of(member)
    assert client.post("/runs/new/", filled(client, base=base)).status_code == 302
    assert Run.objects.get().spec["base"] == base


def test_settings_that_do_not_go_together_are_refused_at_their_field(
    client_of: ClientOf, member: Any, team: Team
) -> None:
    """A rule that joins several settings ended in an error page instead of the form."""
    version_of(team)
    client = client_of(member)
    first = next(iter(METHODS))
    answer = client.post("/runs/new/", filled(client, **{f"{first}-init": "text", f"{first}-init_text": " "}))
    assert answer.status_code == 422 and "needs a text" in answer.content.decode() and not Run.objects.exists()


def test_a_check_box_that_is_off_stays_off(client_of: ClientOf, member: Any, team: Team) -> None:
    version_of(team)
    client = client_of(member)
    values = filled(client)
    del values["keep_best"]
    client.post("/runs/new/", values)
    run = Run.objects.get()
    assert run.spec["keep_best"] is False and run.spec["group_by_length"] is True
    assert client.get(f"/runs/new/?clone={run.pk}").context["form"]["keep_best"].value() is False


def test_unknown_kinds_of_model_or_data_stand_against_nothing() -> None:
    first = next(iter(METHODS.values()))
    groups = card_groups(chosen=first, family="", task="")
    assert not any(card.reason for group in groups for card in group.cards) and not base_reason(family="", task="")


def test_the_pages_module_gets_every_pair_of_family_and_task() -> None:
    found = reasons(["decoder", "encoder"], ["generation", "classification"])
    assert sorted(found) == [
        "decoder/classification", "decoder/generation", "encoder/classification", "encoder/generation",
    ]  # fmt: skip
    assert found["decoder/generation"]["methods"][LIMITED.name] and found["encoder/generation"]["base"]
    assert not found["encoder/classification"]["base"]


def test_the_plan_says_beforehand_how_chat_will_be_able_to_ask(client_of: ClientOf, member: Any, team: Team) -> None:
    """Also where an option decides: what LoRA makes shares the batch, what it makes with DoRA does not."""
    version_of(team)
    client = client_of(member)
    served = client.post("/runs/new/preview/", filled(client)).content.decode()
    head = client.post("/runs/new/preview/", filled(client, method=LIMITED.name)).content.decode()
    dora = client.post("/runs/new/preview/", filled(client, **{"method": "lora", "lora-dora": "on"})).content.decode()
    other = client.post("/runs/new/preview/", filled(client, base="tiny-encoder")).content.decode()
    assert how_served("plain") in served and how_served("own_backbone") in dora
    assert how_served(LIMITED.form) in head
    assert "not served yet" in other and why_not_served("plain", "encoder") in other
