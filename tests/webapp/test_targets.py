"""Names to targets: which version answers, and what an unknown name gets."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings

from ml.errors import NotFoundError, SpecError
from ml.specs import why_not_served
from webapp.models import (
    Adapter,
    AdapterVersion,
    Alias,
    BaseModel,
    DatasetVersion,
    Prompt,
    PromptAlias,
    PromptVersion,
    Team,
)
from webapp.selectors.prompts import as_text, facts_of
from webapp.selectors.targets import choices, names_of_team, resolve
from webapp.services.asking import Sampling, request_for
from webapp.services.prompts import prompt_create, version_create
from webapp.services.teams import token_create

WHY_NOT = why_not_served("lora_delta", "encoder")


def adapter_of(team: Team, name: str, *numbers: int, **fields: Any) -> Adapter:
    adapter, _ = Adapter.objects.get_or_create(team=team, name=name)
    for number in numbers:
        given = {"method": "lora", "form": "lora_delta", "base_name": settings.BASE_MODEL,
                 "base_fingerprint": "f" * 64, **fields}  # fmt: skip
        AdapterVersion.objects.create(
            team=team, adapter=adapter, number=number, artifact=f"{name}{number}".ljust(64, "0"), **given
        )
    return adapter


def move(adapter: Adapter, alias: str, number: int) -> None:
    version = adapter.versions.get(number=number)
    Alias.objects.update_or_create(team=adapter.team, adapter=adapter, name=alias, defaults={"version": version})


def test_base_is_the_plain_model(team, settings):
    target = resolve(team=team, name="base")
    assert (target.artifact, target.form, target.base) == (None, "plain", settings.BASE_MODEL)
    assert resolve(team=team, name=settings.BASE_MODEL).is_base


def test_each_base_model_that_is_served_is_a_plain_model_by_its_name(team, settings):
    settings.BASE_MODELS = (settings.BASE_MODEL, "larger")
    target = resolve(team=team, name="larger")
    assert target.is_base and (target.name, target.base, target.label) == ("larger", "larger", "plain larger")
    assert names_of_team(team) == ["base", "larger"]
    assert [(choice.name, choice.is_base) for choice in choices(team)] == [("base", True), ("larger", True)]


def test_an_adapter_is_asked_of_the_engines_of_its_own_base_model(team, settings):
    settings.BASE_MODELS = (settings.BASE_MODEL, "larger")
    adapter_of(team, "triage", 1, base_name="larger")
    messages = [{"role": "user", "content": "q"}]
    target = resolve(team=team, name="triage")
    assert request_for(target=target, team_id=team.pk, sampling=Sampling(), messages=messages).base == "larger"


def test_a_prompt_is_asked_of_the_engines_of_the_base_model_that_its_version_names(team, member, settings):
    settings.BASE_MODELS = (settings.BASE_MODEL, "larger")
    first = prompt_create(team=team, user=member, name="reply", technique="zero_shot", template="{question}")
    second = version_create(prompt=first.prompt, user=member, base=1, technique="zero_shot", template="{question}",
                            base_model="larger")  # fmt: skip
    messages = [{"role": "user", "content": "q"}]
    for name, base in ((str(first), settings.BASE_MODEL), (str(second), "larger")):
        target = resolve(team=team, name=f"prompt:{name}")
        assert request_for(target=target, team_id=team.pk, sampling=Sampling(), messages=messages).base == base
    assert ("Base model", "larger") in facts_of(second) and "base model: larger" in as_text(second)
    settings.BASE_MODELS = (settings.BASE_MODEL,)
    assert "larger is served by no engine" in resolve(team=team, name="prompt:reply").unserved


def test_a_prompt_on_a_base_model_that_never_was_is_refused(team, member):
    BaseModel.objects.create(name="there", family="decoder")
    with pytest.raises(SpecError, match="no base model 'nope'") as caught:
        prompt_create(team=team, user=member, name="reply", technique="zero_shot", template="{question}",
                      base_model="nope")  # fmt: skip
    assert caught.value.field == "base_model" and not Prompt.objects.exists()


def test_an_adapter_on_a_base_model_that_nobody_serves_is_refused_with_what_to_do(team):
    adapter_of(team, "triage", 1, base_name="retired")
    target = resolve(team=team, name="triage")
    with pytest.raises(SpecError, match=r"retired is served by no engine.*BASE_MODELS"):
        request_for(target=target, team_id=team.pk, sampling=Sampling(), messages=[{"role": "user", "content": "q"}])
    assert names_of_team(team) == ["base"]


def test_a_base_model_that_nobody_serves_is_named_with_what_to_do(team, settings):
    BaseModel.objects.create(name="asleep", family="decoder")
    with pytest.raises(NotFoundError, match="asleep is a base model that no engine serves") as caught:
        resolve(team=team, name="asleep")
    assert settings.BASE_MODEL in caught.value.hint and "BASE_MODELS" in caught.value.hint


def test_a_bare_name_is_the_newest_version_until_production_is_set(team):
    adapter = adapter_of(team, "triage", 1, 2)
    assert resolve(team=team, name="triage").name == "triage@2"
    move(adapter, "production", 1)
    assert resolve(team=team, name="triage").name == "triage@1"


def test_an_alias_and_a_number_name_their_versions(team):
    adapter = adapter_of(team, "triage", 1, 2)
    move(adapter, "staging", 1)
    assert resolve(team=team, name="triage@staging").artifact == "triage1".ljust(64, "0")
    assert resolve(team=team, name="triage@2").artifact == "triage2".ljust(64, "0")


@pytest.mark.parametrize(
    "name",
    ["triag", "triage@9", "triage@productoin", "triage@", "@1", "", "triage@1@2", "triage@²", "triage\x00", "x" * 5000,
     "prompt:", "prompt:triage", "triage@99999999999999999999"],
)  # fmt: skip
def test_an_unknown_name_is_not_found_and_never_the_plain_model(team, name):
    adapter_of(team, "triage", 1)
    with pytest.raises(NotFoundError) as caught:
        resolve(team=team, name=name)
    assert (caught.value.code, caught.value.status) == ("model_not_found", 404)


def test_the_error_offers_the_nearest_names(team):
    move(adapter_of(team, "question-type", 1), "production", 1)
    with pytest.raises(NotFoundError) as caught:
        resolve(team=team, name="question-typ@production")
    assert "question-type@production" in caught.value.hint


def test_another_teams_name_gives_the_error_of_a_name_that_never_was(team, other_team):
    adapter_of(other_team, "secret-sauce", 1)
    adapter_of(team, "triage", 1)
    with pytest.raises(NotFoundError) as theirs:
        resolve(team=team, name="secret-sauce")
    with pytest.raises(NotFoundError) as nobodys:
        resolve(team=team, name="secret-saucy")
    assert theirs.value.hint == nobodys.value.hint
    assert "sauce" not in theirs.value.hint


def test_a_retired_adapter_answers_no_more(team):
    adapter = adapter_of(team, "triage", 1)
    Adapter.objects.filter(pk=adapter.pk).update(is_retired=True)
    with pytest.raises(NotFoundError):
        resolve(team=team, name="triage@1")
    assert [choice.name for choice in choices(team)] == ["base"]


def test_every_listed_name_resolves(team):
    move(adapter_of(team, "triage", 1, 2), "production", 1)
    prompt = Prompt.objects.create(team=team, name="reply")
    PromptVersion.objects.create(team=team, prompt=prompt, number=1)
    names = names_of_team(team)
    assert names == ["base", "triage", "triage@production", "triage@2", "triage@1", "prompt:reply", "prompt:reply@1"]
    assert [resolve(team=team, name=name).asked for name in names] == names


def test_a_prompt_folds_system_examples_and_template_around_the_question(team):
    prompt = Prompt.objects.create(team=team, name="reply")
    PromptVersion.objects.create(
        team=team, prompt=prompt, number=1, system="Be brief.", template="Ticket: {question}",
        examples=[{"question": "No light", "answer": "Check the fuse."}],
    )  # fmt: skip
    target = resolve(team=team, name="prompt:reply")
    assert target.name == "prompt:reply@1"
    assert target.fold(
        [{"role": "system", "content": "In French."}, {"role": "user", "content": "{question} {0}"}]
    ) == [
        {"role": "system", "content": "Be brief.\n\nIn French."},
        {"role": "user", "content": "Ticket: No light"},
        {"role": "assistant", "content": "Check the fuse."},
        {"role": "user", "content": "Ticket: {question} {0}"},
    ]


def test_a_prompt_is_called_by_its_bare_name_unless_an_adapter_has_it(team):
    prompt = Prompt.objects.create(team=team, name="triage")
    first = PromptVersion.objects.create(team=team, prompt=prompt, number=1)
    PromptVersion.objects.create(team=team, prompt=prompt, number=2)
    PromptAlias.objects.create(team=team, prompt=prompt, name="production", version=first)
    names = ["triage", "triage@production", "triage@2", "prompt:triage@production"]
    resolved = ["prompt:triage@1", "prompt:triage@1", "prompt:triage@2", "prompt:triage@1"]
    assert [resolve(team=team, name=name).name for name in names] == resolved
    assert [choice.name for choice in choices(team)] == ["base", "prompt:triage@production", "prompt:triage@2"]
    adapter_of(team, "triage", 1)
    assert resolve(team=team, name="triage").name == "triage@1"
    with pytest.raises(NotFoundError):
        resolve(team=team, name="triage@2")


@pytest.fixture
def trained_on(team: Team) -> Any:
    def make(task: str, **mapping: str) -> Any:
        from webapp.models import Dataset

        dataset = Dataset.objects.create(team=team, name="d")
        version = DatasetVersion.objects.create(
            team=team, dataset=dataset, number=1, sha256="a" * 64, task=task, mapping=mapping
        )
        adapter_of(team, "trained", 1, dataset_version=version)
        return resolve(team=team, name="trained")

    return make


def test_an_adapter_is_asked_in_the_form_of_its_training_data(trained_on):
    target = trained_on("generation", system="Summarise.", prompt="Opinion {{x}}: {text}", completion="summary")
    asked = target.fold([{"role": "user", "content": "Fir {text}"}])
    assert asked == [
        {"role": "system", "content": "Summarise."},
        {"role": "user", "content": "Opinion {x}: Fir {text}"},
    ]


def test_a_callers_own_system_text_replaces_that_of_the_training_data(trained_on):
    target = trained_on("generation", system="Summarise.", prompt="{text}", completion="summary")
    asked = target.fold([{"role": "system", "content": "Mine."}, {"role": "user", "content": "Fir"}])
    assert asked[0] == {"role": "system", "content": "Mine."}


def test_a_prompt_of_several_columns_is_not_guessed_at(trained_on):
    target = trained_on("generation", prompt="{title}: {text}", completion="summary")
    assert target.fold([{"role": "user", "content": "Fir"}]) == [{"role": "user", "content": "Fir"}]


def test_a_classifier_sees_the_last_question_only(trained_on):
    target = trained_on("classification", prompt="{text}", completion="label")
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert target.fold(turns) == [{"role": "user", "content": "c"}]
    assert target.frame.picks_label


@pytest.fixture
def unserved(team: Team) -> AdapterVersion:
    """An adapter on a base model that the engine cannot serve."""
    return adapter_of(team, "tagger", 1, manifest={"family": "encoder"}).versions.get()


def test_what_the_engine_cannot_carry_resolves_with_the_reason_and_is_not_listed(team, unserved):
    target = resolve(team=team, name="tagger@1")
    assert target.unserved == WHY_NOT
    assert names_of_team(team) == ["base"]


def test_the_picker_keeps_it_in_sight_with_the_reason(team, unserved):
    by_name = {choice.name: choice.unserved for choice in choices(team)}
    assert by_name == {"base": "", "tagger@1": WHY_NOT}


def test_an_adapter_on_another_family_is_not_served_whatever_its_form(team):
    adapter_of(team, "french", 1, manifest={"family": "encoder_decoder"})
    assert "encoder-decoder" in resolve(team=team, name="french").unserved


def test_a_bare_name_is_listed_only_when_the_version_behind_it_answers(team):
    adapter = adapter_of(team, "mixed", 1, 2)
    adapter.versions.filter(number=2).update(manifest={"family": "encoder"})
    assert names_of_team(team) == ["base", "mixed@1"]
    move(adapter, "production", 1)
    assert names_of_team(team) == ["base", "mixed", "mixed@production", "mixed@1"]


def test_asking_for_it_is_refused_before_anything_is_written_or_queued(team, unserved):
    with pytest.raises(SpecError) as caught:
        request_for(
            target=resolve(team=team, name="tagger"), team_id=team.pk, sampling=Sampling(),
            messages=[{"role": "user", "content": "Hello?"}],
        )  # fmt: skip
    assert (caught.value.code, caught.value.field) == ("not_served", "model")
    assert caught.value.message == f"tagger is not served in chat yet: {WHY_NOT}"


def test_the_chat_page_leaves_it_out_and_says_why(team, member, unserved, client_of):
    answer = client_of(member).get("/chat/?target=tagger@1")
    assert WHY_NOT in answer.content.decode()
    assert [chip["target"].name for chip in answer.context["chips"]] == ["base"]


def test_the_api_says_whether_a_name_answers(team, member, unserved, client):
    _, token = token_create(team=team, user=member, name="ci")
    headers = {"Authorization": f"Bearer {token}"}
    told = client.get("/v1/models/tagger@1", headers=headers).json()["coldframe"]
    assert told["served"] is False and told["why_not"] == WHY_NOT
    assert client.get("/v1/models/base", headers=headers).json()["coldframe"]["served"] is True
    body = {"model": "tagger@1", "messages": [{"role": "user", "content": "Hello?"}]}
    refused = client.post("/v1/chat/completions", body, content_type="application/json", headers=headers)
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "not_served"
