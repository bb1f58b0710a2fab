"""Names that adapters and prompts share: a team has each name once, whichever of the two came first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from ml.errors import SpecError
from ml.specs import METHODS
from tests.webapp.library import published
from tests.webapp.run_forms import version_of
from webapp.models import AdapterVersion, Prompt, Run, Team
from webapp.selectors.targets import resolve
from webapp.services import runs as run_services
from webapp.services.adapters import adapter_edit
from webapp.services.prompts import prompt_create
from webapp.services.runs import run_cancel, training_submit

SignIn = Callable[[Any], Client]
CONTENT = {"technique": "zero_shot", "template": "Say: {question}"}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_services, "enqueue", lambda kind, run_id: None)


@pytest.fixture
def prompt(team: Team, member: Any) -> Prompt:
    return prompt_create(team=team, user=member, name="triage", **CONTENT).prompt


def train(team: Team, member: Any, name: str = "triage") -> Run:
    given = {"method": next(iter(METHODS)), "base": "tiny", "steps": 10}
    return training_submit(team=team, user=member, adapter=name, dataset_version_id=version_of(team).pk, given=given)


def test_a_training_run_cannot_ask_for_a_prompts_name(team: Team, member: Any, prompt: Prompt) -> None:
    with pytest.raises(SpecError, match="There is a prompt 'triage': clients that ask for triage get that") as caught:
        train(team, member)
    assert caught.value.field == "adapter"
    assert not Run.objects.exists()


def test_another_teams_prompt_keeps_no_name_from_us(team: Team, member: Any, other_team: Team, stranger: Any) -> None:
    prompt_create(team=other_team, user=stranger, name="triage", **CONTENT)
    assert train(team, member).spec["adapter"] == "triage"


def test_an_adapter_cannot_be_renamed_to_a_prompts_name(
    team: Team, member: Any, prompt: Prompt, tmp_path: Path
) -> None:
    version = published(team, tmp_path / "out", name="other")
    with pytest.raises(SpecError, match="There is a prompt 'triage'"):
        adapter_edit(adapter=version.adapter, user=member, name="triage", description="")
    assert adapter_edit(adapter=version.adapter, user=member, name="other", description="Kept.").description == "Kept."


def test_a_prompt_cannot_take_the_name_of_an_adapter_that_is_being_trained(team: Team, member: Any) -> None:
    run = train(team, member)
    with pytest.raises(SpecError, match=f"Run #{run.pk} is making an adapter 'triage'"):
        prompt_create(team=team, user=member, name="triage", **CONTENT)
    run_cancel(run=run, user=member)
    assert str(prompt_create(team=team, user=member, name="triage", **CONTENT)) == "triage@1"


def test_what_was_trained_meanwhile_is_published_under_a_free_name_and_the_run_says_so(
    team: Team, member: Any, prompt: Prompt, tmp_path: Path, client_of: SignIn
) -> None:
    """A failed run of that name was tried again after the prompt was made: its bare name went to the adapter, and
    clients of the prompt got other answers from one moment to the next."""
    version = published(team, tmp_path / "out", name="triage", user=member)
    assert str(version) == "triage-adapter@1"
    assert resolve(team=team, name="triage").name == "prompt:triage@1"
    page = client_of(member).get(f"/runs/{version.run_id}/").content.decode()
    assert "Published as triage-adapter: a prompt was called triage meanwhile" in page


def test_a_second_name_that_is_taken_too_is_counted_on(team: Team, member: Any, prompt: Prompt, tmp_path: Path) -> None:
    prompt_create(team=team, user=member, name="triage-adapter", **CONTENT)
    assert str(published(team, tmp_path / "a", name="triage")) == "triage-adapter-2@1"


def test_later_versions_of_an_adapter_keep_its_name(team: Team, member: Any, tmp_path: Path) -> None:
    published(team, tmp_path / "a", name="triage")
    Prompt.objects.create(team=team, name="triage")
    assert str(published(team, tmp_path / "b", name="triage")) == "triage@2"
    assert AdapterVersion.objects.count() == 2
