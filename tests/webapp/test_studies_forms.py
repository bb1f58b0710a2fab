"""Forms of studies: a new one, an extension, a promotion, a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from ml.specs.study import TECHNIQUES
from tests.webapp.study_fixtures import asked, client, study, version  # noqa: F401
from tests.webapp.study_pages import RIGHT, filled, page_of
from tests.webapp.studying import data_version, published
from webapp.models import AdapterVersion, Alias, BaseModel, Study, Team
from webapp.selectors.study_power import points_apart


def test_without_data_the_form_says_what_to_do(client: Client, team: Team):
    assert "There is no data set to compare on" in page_of(client, "/studies/new/")


def test_the_untouched_form_starts_all_that_fit_by_three_seeds_in_half_an_hour(client: Client, version: Any):
    response = client.post("/studies/new/", filled(client), follow=True)
    study = Study.objects.get()
    assert response.redirect_chain[-1][0] == f"/studies/{study.pk}/" and "is in line" in response.content.decode()
    without_documents = [name for name, one in TECHNIQUES.items() if not one.needs_collection]
    assert study.spec["techniques"] == without_documents and study.spec["seeds"] == [17, 18, 19]
    assert study.spec["budget_s"] == 1800 and study.name == "tickets: which technique?"


def test_only_those_without_training_can_be_asked_for(client: Client, version: Any):
    client.post("/studies/new/", filled(client, which="asked"))
    assert {TECHNIQUES[name].kind for name in Study.objects.get().spec["techniques"]} == {"prompt"}


def test_techniques_are_chosen_one_by_one(client: Client, version: Any):
    client.post("/studies/new/", filled(client, which="chosen", techniques=["lora", "plain"], shares="10 %, 0.5",
                                        curve_techniques=["lora", "ia3"], name="Two of them"))  # fmt: skip
    spec = Study.objects.get(name="Two of them").spec
    assert spec["techniques"] == ["plain", "lora"] and spec["shares"] == [0.1, 0.5]
    assert spec["curve_techniques"] == ["lora"]


@pytest.mark.parametrize(
    ("field", "typed", "said"),
    [
        ("budget", "soon", "The budget is a time, got &#x27;soon&#x27;"),
        ("budget", "4 h 30", "has a number without a unit"),
        ("seeds", "17, x", "Seeds are whole numbers"),
        ("seeds", "17, 17", "Every seed counts once"),
        ("shares", "half", "A share is a number"),
        ("shares", "1.5", "above 0 and below 1"),
        ("steps", "many", "Steps must be a whole number"),
        ("n_tries", "12", "Learning rates tried must be ≤ 9"),
        ("test_rows", "1", "Test rows must be ≥ 2"),
        ("instruction", "Say {nothing}", "which stands for nothing here"),
    ],
)
def test_a_refusal_stands_at_its_field_and_keeps_what_was_typed(
    client: Client, version: Any, field: str, typed: str, said: str
):
    response = client.post("/studies/new/", filled(client, **{field: typed, "name": "Mine"}))
    page = response.content.decode()
    assert response.status_code == 422 and not Study.objects.exists()
    error = page.index(f'id="id_{field}_error"')
    assert said in page[error : error + 400]
    assert f'value="{typed}"' in page or typed in page
    assert 'value="Mine"' in page


def test_none_chosen_is_refused(client: Client, version: Any):
    response = client.post("/studies/new/", filled(client, which="chosen"))
    assert response.status_code == 422 and "at least one technique" in response.content.decode()


def test_a_metric_that_does_not_fit_the_data_is_refused_at_its_field(client: Client, version: Any):
    response = client.post("/studies/new/", filled(client, metric="bleu"))
    assert response.status_code == 422 and "cannot be ranked by" in response.content.decode()


def test_data_without_validation_rows_is_refused_with_what_to_do(client: Client, team: Team, tmp_path: Path):
    BaseModel.objects.create(name="tiny", family="decoder")
    data_version(team, tmp_path / "data", n_valid=0)
    response = client.post("/studies/new/", filled(client))
    page = response.content.decode()
    assert response.status_code == 422 and "has no validation rows" in page[page.index('id="id_n_tries_error"') :]


def test_another_team_s_data_does_not_exist(client: Client, version: Any, other_team: Team, tmp_path: Path):
    theirs = data_version(other_team, tmp_path / "theirs")
    assert client.post("/studies/new/", filled(client, dataset_version=theirs.pk)).status_code == 404


def test_the_form_starts_at_what_the_link_names(client: Client, version: Any):
    page = page_of(client, f"/studies/new/?dataset_version={version.pk}&technique=lora&technique=nonsense")
    assert 'name="techniques" value="lora" checked' in page and 'value="chosen" checked' in page


def test_one_like_an_earlier_study_has_its_settings(client: Client, study: Study):
    form = client.get(f"/studies/new/?like={study.pk}").context["form"]
    assert form["seeds"].value() == "17, 18" and form["techniques"].value() == ["plain", "zero_shot", "lora"]
    assert form["n_tries"].value() == 1 and form["base"].value() == "tiny"


def test_what_a_model_cannot_have_says_why_on_its_card(client: Client, version: Any):
    BaseModel.objects.create(name="reader", family="encoder")
    page = page_of(client, "/studies/new/?base=reader&technique=lora")
    assert "asks a decoder model in words" in page
    assert 'name="techniques" value="zero_shot" disabled' in page


def test_while_typing_the_page_says_what_the_rows_can_tell(client: Client, version: Any):
    page = client.post("/studies/new/preview/", filled(client, test_rows="100", seeds="1")).content.decode()
    assert "12 rows" in page and "hardly tell anything apart" in page
    assert "16 cells" in page and "/v1/studies" in page


def test_200_rows_tell_about_nine_points_apart_and_more_rows_less():
    assert points_apart(200) == pytest.approx(0.088, abs=0.001)
    assert points_apart(10) is None
    assert [points_apart(n) for n in (100, 400, 1600)] == sorted(
        [points_apart(n) for n in (100, 400, 1600)], reverse=True
    )


def test_stopping_is_said(client: Client, asked: Study):
    response = client.post(f"/studies/{asked.pk}/stop/", follow=True)
    assert "it had not begun" in response.content.decode()
    assert "too late to stop" in client.post(f"/studies/{asked.pk}/stop/", follow=True).content.decode()


def test_a_technique_and_a_seed_are_added(client: Client, study: Study):
    page = page_of(client, f"/studies/{study.pk}/extend/")
    assert "It has already: Plain model" in page and 'value="lora"' not in page
    client.post(f"/studies/{study.pk}/extend/", {"techniques": ["ia3"], "seeds": "19", "budget": "2 h"})
    grown = Study.objects.get()
    assert grown.spec["techniques"] == ["plain", "zero_shot", "lora", "ia3"] and grown.spec["seeds"] == [17, 18, 19]
    assert grown.spec["budget_s"] == 7200
    assert "is being measured just now" in page_of(client, f"/studies/{study.pk}/extend/")


def test_an_extension_by_nothing_is_refused_and_keeps_what_was_typed(client: Client, study: Study):
    response = client.post(f"/studies/{study.pk}/extend/", {"seeds": "17", "budget": "45 min"})
    page = response.content.decode()
    assert response.status_code == 422 and "has all of that already" in page and 'value="45 min"' in page
    wrong = client.post(f"/studies/{study.pk}/extend/", {"seeds": "x", "techniques": ["ia3"]}).content.decode()
    assert "Seeds are whole numbers" in wrong and 'value="ia3" checked' in wrong


def test_the_winner_is_promoted_and_production_points_at_it(client: Client, study: Study):
    form = client.get(f"/studies/{study.pk}/promote/").context["form"]
    assert form["entry"].value() == "lora-s17" and form["name"].value() == "tickets"
    response = client.post(f"/studies/{study.pk}/promote/", {"entry": "lora-s17", "name": "triage",
                                                             "alias": "production"}, follow=True)  # fmt: skip
    assert "triage@1 is in the library; production points at it" in response.content.decode()
    assert "entry, seed 17" in response.content.decode() and study.name in response.content.decode()
    version = AdapterVersion.objects.get()
    assert Alias.objects.get(name="production").version == version
    assert f"/adapters/{version.adapter_id}/1/" in page_of(client, f"/studies/{study.pk}/")


def test_a_promotion_that_is_held_back_asks_for_a_reason_and_keeps_what_was_typed(
    client: Client, asked: Study, tmp_path: Path
):
    study = published(asked, tmp_path, RIGHT)
    given = {"entry": "lora-s17", "name": "triage", "alias": "production"}
    assert client.post(f"/studies/{study.pk}/promote/", given).status_code == 302
    response = client.post(f"/studies/{study.pk}/promote/", {**given, "entry": "lora-s18"})
    page = response.content.decode()
    assert response.status_code == 422 and "is held back" in page and 'value="triage"' in page
    assert "Promote all the same" in page and '<option value="lora-s18" selected>' in page
    given |= {"entry": "lora-s18", "reason": "It is steadier."}
    assert client.post(f"/studies/{study.pk}/promote/", given).status_code == 302
    assert Alias.objects.get(name="production").version.number == 2


def test_a_name_that_could_not_be_typed_is_refused_at_its_field(client: Client, study: Study):
    response = client.post(f"/studies/{study.pk}/promote/", {"entry": "lora-s17", "name": "My Triage", "alias": ""})
    page = response.content.decode()
    assert response.status_code == 422 and "Try my-triage." in page[page.index('id="id_name_error"') :]


def test_nothing_to_promote_says_so(client: Client, asked: Study):
    assert "Nothing can be promoted yet" in page_of(client, f"/studies/{asked.pk}/promote/")


def test_a_study_is_renamed_and_a_name_too_long_is_kept_to_be_mended(client: Client, study: Study):
    client.post(f"/studies/{study.pk}/rename/", {"name": "Better"})
    assert Study.objects.get().name == "Better"
    response = client.post(f"/studies/{study.pk}/rename/", {"name": "x" * 200})
    page = response.content.decode()
    assert response.status_code == 422 and "at most 120 characters" in page and "x" * 200 in page
    assert Study.objects.get().name == "Better"


def test_what_is_at_work_is_not_archived(client: Client, asked: Study):
    response = client.post(f"/studies/{asked.pk}/archive/", follow=True)
    assert "Stop it first" in response.content.decode() and not Study.objects.get().is_archived
