"""Retrieval as a technique of a study: its collection is chosen, checked, kept by extensions and promoted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from ml.errors import SpecError
from tests.webapp.collections_fixture import add, own_storage, publish  # noqa: F401
from tests.webapp.study_fixtures import client, version  # noqa: F401
from tests.webapp.study_pages import filled, page_of
from tests.webapp.studying import published, submitted
from tests.webapp.test_studies_api import Api
from webapp.models import Collection, Evaluation, PromptVersion, Study, Team
from webapp.selectors.collections import some_chunks
from webapp.selectors.study_plan import plan_of_study
from webapp.services.collections import collection_create
from webapp.services.studies import study_extend
from webapp.services.study_promotions import study_promote

pytestmark = pytest.mark.django_db
BOTH = ["zero_shot", "retrieval"]
RIGHT = {"plain-s17": 4, "zero_shot-s17": 6, "lora-s17": 11}


@pytest.fixture
def collection(team: Team, member: Any, tmp_path: Path) -> Collection:
    """With two passages that answers may stand on."""
    made = collection_create(team=team, user=member, name="opinions", description="")
    publish(add(made, a_md=b"# Trees").run, tmp_path, ["A tree on a line is owned by both.", "A fence is shared."])
    return made


def test_without_a_collection_retrieval_is_left_out_with_the_reason(client: Client, version: Any) -> None:
    page = page_of(client, "/studies/new/")
    assert 'name="collection"' not in page and "It searches a collection: choose one." in page
    client.post("/studies/new/", filled(client, which="asked"))
    assert "retrieval" not in Study.objects.get().spec["techniques"]


def test_a_chosen_collection_brings_retrieval_in(client: Client, version: Any, collection: Collection) -> None:
    form = client.get("/studies/new/?collection=opinions").context["form"]
    assert form["collection"].value() == "opinions"
    assert {key[-1]: bool(found["retrieval"]) for key, found in form.reasons.items()} == {"y": False, "n": True}
    client.post("/studies/new/", filled(client, which="asked", collection="opinions"))
    study = Study.objects.get()
    assert "retrieval" in study.spec["techniques"]
    assert (study.spec["collection"], study.collection) == ("opinions", collection)
    assert "opinions" in page_of(client, f"/studies/{study.pk}/")
    again = client.get(f"/studies/new/?like={study.pk}").context["form"]
    assert again["collection"].value() == "opinions"


@pytest.mark.parametrize(
    ("typed", "said"),
    [({"collection": ""}, "searches a collection, and the study names none"),
     ({"collection": "theirs"}, "Your team has no collection theirs")],
)  # fmt: skip
def test_a_wrong_choice_is_told_beside_the_field_and_nothing_is_begun(
    typed: dict[str, str], said: str, client: Client, version: Any, collection: Collection, other_team: Team
) -> None:
    collection_create(team=other_team, user=None, name="theirs", description="")
    response = client.post("/studies/new/", filled(client, which="chosen", techniques=BOTH, **typed))
    assert response.status_code == 422 and said in response.content.decode()
    assert response.context["form"].errors.keys() == {"collection"}
    assert not Study.objects.exists()


def test_a_collection_in_which_nothing_was_read_is_refused(team: Team, member: Any, version: Any) -> None:
    collection_create(team=team, user=member, name="empty", description="")
    with pytest.raises(SpecError, match="Nothing can be found in empty yet") as caught:
        submitted(team, member, version, techniques=BOTH, collection="empty")
    assert caught.value.field == "collection" and not Study.objects.exists()
    assert submitted(team, member, version, techniques=["zero_shot"], collection="empty").collection is not None


def test_the_plan_is_given_passages_as_a_row_gets_them(
    team: Team, version: Any, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ml.specs.study import study_spec
    from tests.webapp.planner import planner

    said = {"n_done": 1, "n_all": 1, "techniques": [], "total_s": 0, "budget_s": 0}
    made = planner(monkeypatch, "webapp.selectors.study_plan", said)
    given = {"base": "tiny", "dataset": "d@1", "dataset_sha256": "a" * 64, "techniques": BOTH, "collection": "opinions"}
    plan_of_study(team=team, version=version, spec=study_spec(given, task="classification"))
    assert made.asked[0]["data"]["passages"] == some_chunks(collection, 3)
    assert sorted(made.asked[0]["data"]["passages"]) == ["A fence is shared.", "A tree on a line is owned by both."]


def test_an_extension_may_bring_a_collection_once(
    team: Team, member: Any, version: Any, collection: Collection, client: Client, tmp_path: Path
) -> None:
    study = published(submitted(team, member, version), tmp_path, RIGHT)
    assert 'name="collection"' in page_of(client, f"/studies/{study.pk}/extend/")
    with pytest.raises(SpecError, match="names none"):
        study_extend(study=study, user=member, techniques=["retrieval"])
    client.post(f"/studies/{study.pk}/extend/", {"techniques": ["retrieval"], "collection": "opinions", "budget": "0"})
    grown = published(Study.objects.get(), tmp_path, {**RIGHT, "retrieval-s17": 9})
    assert (grown.spec["collection"], grown.collection) == ("opinions", collection)
    assert 'name="collection"' not in page_of(client, f"/studies/{study.pk}/extend/")
    with pytest.raises(SpecError, match="stays on the collection opinions, got 'wiki'") as caught:
        study_extend(study=grown, user=member, techniques=["ia3"], collection="wiki")
    assert caught.value.field == "collection"


def test_without_its_collection_a_study_can_still_be_extended(
    team: Team, member: Any, version: Any, collection: Collection, client: Client, tmp_path: Path
) -> None:
    asked = submitted(team, member, version, techniques=["zero_shot", "retrieval", "lora"], collection="opinions")
    study = published(asked, tmp_path, {"zero_shot-s17": 6, "retrieval-s17": 9, "lora-s17": 11})
    collection.delete()
    study.refresh_from_db()
    assert "deleted since" in page_of(client, f"/studies/{study.pk}/")
    study_extend(study=study, user=member, techniques=["ia3"])
    assert "ia3" in Study.objects.get().spec["techniques"]


def test_promoted_it_is_a_prompt_that_searches_the_collection(
    team: Team, member: Any, version: Any, collection: Collection, tmp_path: Path
) -> None:
    asked = submitted(team, member, version, techniques=BOTH, collection="opinions")
    study = published(asked, tmp_path, {"zero_shot-s17": 6, "retrieval-s17": 9})
    made = study_promote(entry=study.entries.get(key="retrieval-s17"), user=member, name="from-sources", alias="")
    assert isinstance(made, PromptVersion) and made.technique == "zero_shot"
    assert (made.collection, made.collection_name) == (collection, "opinions")
    plain = study_promote(entry=study.entries.get(key="zero_shot-s17"), user=member, name="told", alias="")
    assert isinstance(plain, PromptVersion) and plain.collection is None
    evaluated = Evaluation.objects.get(prompt_version=made)
    assert (evaluated.collection, evaluated.collection_name) == (collection, "opinions")


def test_of_a_collection_that_is_gone_nothing_is_promoted(
    team: Team, member: Any, version: Any, collection: Collection, tmp_path: Path
) -> None:
    asked = submitted(team, member, version, techniques=BOTH, collection="opinions")
    study = published(asked, tmp_path, {"zero_shot-s17": 6, "retrieval-s17": 9})
    collection.delete()
    entry = Study.objects.get(pk=study.pk).entries.get(key="retrieval-s17")
    with pytest.raises(SpecError, match="opinions was deleted"):
        study_promote(entry=entry, user=member, name="from-sources")


def test_the_api_takes_a_collection_by_name(team: Team, member: Any, version: Any, collection: Collection) -> None:
    api = Api(team, member)
    body = {"dataset": "tickets@1", "base": "tiny", "techniques": BOTH, "n_tries": 1}
    refused = api.post("", body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "collection")
    unknown = api.post("", {**body, "collection": "nowhere"})
    assert "no collection 'nowhere'" in unknown.json()["error"]["message"]
    made = api.post("", {**body, "collection": "opinions"})
    assert made.status_code == 201 and made.json()["spec"]["collection"] == "opinions"


def test_an_extension_by_the_api_names_a_collection(
    team: Team, member: Any, version: Any, collection: Collection, tmp_path: Path
) -> None:
    study = published(submitted(team, member, version), tmp_path, RIGHT)
    body = {"techniques": ["retrieval"], "collection": "opinions"}
    assert Api(team, member).post(f"/{study.pk}/extend", body).json()["spec"]["collection"] == "opinions"
