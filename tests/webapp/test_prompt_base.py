"""The base model of a prompt's version, in the editor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from webapp.models import BaseModel, PromptVersion, Team
from webapp.services.prompts import prompt_create

SignIn = Callable[[Any], Client]
TYPED = {"technique": "zero_shot", "system": "Be kind.", "template": "Q: {question}"}


@pytest.fixture
def on_larger(team: Team, member: Any, settings: Any) -> PromptVersion:
    settings.BASE_MODELS = (settings.BASE_MODEL, "larger")
    BaseModel.objects.create(name="larger", family="decoder")
    return prompt_create(team=team, user=member, name="big", technique="zero_shot", template="{question}",
                         base_model="larger")  # fmt: skip


def test_the_base_model_is_chosen_where_there_are_several(
    client_of: SignIn, member: Any, on_larger: PromptVersion, settings: Any
) -> None:
    client, path = client_of(member), reverse("prompts:new_version", args=[on_larger.prompt_id])
    assert '<option value="larger" selected>' in client.get(path).content.decode()
    client.post(path, {**TYPED, "base": "1", "base_model": ""})
    assert PromptVersion.objects.get(number=2).base_name == ""
    settings.BASE_MODELS = (settings.BASE_MODEL,)
    assert "id_base_model" not in client.get(path).content.decode()


def test_a_prompt_whose_base_model_is_served_no_more_can_be_edited(
    client_of: SignIn, member: Any, on_larger: PromptVersion, settings: Any
) -> None:
    settings.BASE_MODELS = (settings.BASE_MODEL,)
    client, path = client_of(member), reverse("prompts:new_version", args=[on_larger.prompt_id])
    assert "larger, not served" in client.get(path).content.decode()
    assert client.post(path, {**TYPED, "base": "1", "base_model": "larger"}).status_code == 302
    assert PromptVersion.objects.get(number=2).base_name == "larger"
    page = client.post(path, {**TYPED, "base": "2", "base_model": "nope", "system": ""})
    assert page.status_code == 422 and "There is no base model &#x27;nope&#x27;" in page.content.decode()
