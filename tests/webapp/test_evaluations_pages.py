"""Pages and API of evaluations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import Client

from tests.webapp.evaluating import data_version, published, submitted
from webapp.models import Evaluation, Run
from webapp.services.teams import token_create


@pytest.fixture
def version(team: Any, tmp_path: Path) -> Any:
    return data_version(team, tmp_path)


@pytest.fixture
def client(member: Any, client_of: Callable[[Any], Client]) -> Client:
    return client_of(member)


async def _whole(response: Any) -> bytes:
    return b"".join([part async for part in response.streaming_content])


def _form(version: Any, **given: Any) -> dict[str, Any]:
    return {"model": "base", "dataset_version": version.pk, "split": "test", "rows": 5, "max_tokens": 64, **given}


def test_without_any_the_list_says_what_to_do(client: Client):
    page = client.get("/evaluations/").content.decode()
    assert "Nothing was evaluated yet" in page and "/evaluations/new/" in page


def test_without_data_the_form_says_what_to_do(client: Client):
    assert "There is no dataset to measure on" in client.get("/evaluations/new/").content.decode()


def test_an_evaluation_is_started_from_the_form_and_shows_that_it_waits(client: Client, version: Any):
    response = client.post("/evaluations/new/", _form(version), follow=True)
    evaluation = Evaluation.objects.get()
    assert response.redirect_chain[-1][0] == f"/evaluations/{evaluation.pk}/"
    assert evaluation.n_rows == 5 and "is in line" in response.content.decode()
    assert client.get(f"/evaluations/{evaluation.pk}/progress/").status_code == 200


def test_a_refusal_stands_beside_its_field_and_what_was_chosen_is_kept(client: Client, version: Any):
    response = client.post("/evaluations/new/", _form(version, metrics=["bleu"], rows=7))
    page = response.content.decode()
    assert response.status_code == 422 and "BLEU compares texts" in page and 'value="7"' in page
    assert not Evaluation.objects.exists()


def test_the_form_starts_at_what_the_link_named(client: Client, version: Any):
    page = client.get(f"/evaluations/new/?dataset_version={version.pk}&split=validation").content.decode()
    assert f'<option value="{version.pk}" selected>' in page and '<option value="validation" selected>' in page


def test_the_progress_fragment_reloads_the_page_once_the_run_is_over(
    client: Client, team: Any, member: Any, version: Any
):
    evaluation = submitted(team, member, version)
    assert evaluation.run is not None
    Run.objects.filter(pk=evaluation.run.pk).update(
        state=Run.State.RUNNING, progress={"done": 3, "total": 12, "eta_s": 9, "text": "No engine is running."}
    )
    running = client.get(f"/evaluations/{evaluation.pk}/progress/")
    assert "HX-Refresh" not in running.headers and "No engine is running." in running.content.decode()
    Run.objects.filter(pk=evaluation.run.pk).update(state=Run.State.FAILED, error={"message": "broken", "hint": "mend"})
    assert client.get(f"/evaluations/{evaluation.pk}/progress/").headers["HX-Refresh"] == "true"
    assert "broken" in client.get(f"/evaluations/{evaluation.pk}/").content.decode()


def test_the_page_shows_figures_confusions_and_rows(
    client: Client, team: Any, member: Any, version: Any, tmp_path: Path
):
    evaluation = published(submitted(team, member, version), tmp_path, n_right=9)
    page = client.get(f"/evaluations/{evaluation.pk}/").content.decode()
    for text in ("Accuracy", "75.0", "Confusions", "billing taken for moving", "Calibration", "1 not answered"):
        assert text in page, text
    wrong = client.get(f"/evaluations/{evaluation.pk}/?show=wrong").content.decode()
    assert "ticket number 12" in wrong and "ticket number 4<" not in wrong


def test_two_are_compared_with_their_disagreements(
    client: Client, team: Any, member: Any, version: Any, tmp_path: Path
):
    old, new = (published(submitted(team, member, version), tmp_path, n_right=n) for n in (2, 11))
    page = client.get(f"/evaluations/compare/{new.pk}/{old.pk}/").content.decode()
    assert "is better</b> in accuracy" in page and "+75.0" in page and "9 of 12 rows" in page
    assert "Compare" in client.get(f"/evaluations/{new.pk}/").content.decode()
    assert client.get(f"/evaluations/compare/{new.pk}/{new.pk}/").status_code == 404


def test_the_rows_are_downloaded_whole(client: Client, team: Any, member: Any, version: Any, tmp_path: Path):
    evaluation = published(submitted(team, member, version), tmp_path)
    response = client.get(f"/evaluations/{evaluation.pk}/results/")
    lines = async_to_sync(_whole)(response).splitlines()
    assert len(lines) == 12 and json.loads(lines[0])["row"] == 3
    waiting = submitted(team, member, version)
    assert client.get(f"/evaluations/{waiting.pk}/results/").status_code == 404


def test_texts_of_models_are_shown_as_text(client: Client, team: Any, member: Any, tmp_path: Path):
    version = data_version(team, tmp_path, task="generation", name="sums")
    evaluation = published(submitted(team, member, version), tmp_path, n_right=11)
    path = tmp_path / "changed"
    path.mkdir()
    Evaluation.objects.filter(pk=evaluation.pk).update(subject="<b>x</b>")
    page = client.get(f"/evaluations/{evaluation.pk}/").content.decode()
    assert "<b>x</b>" not in page and "Perplexity" in page and "Numeric answer" in page


def test_an_admin_sets_the_prices_and_a_member_does_not(
    client: Client, admin: Any, client_of: Callable[[Any], Client], team: Any
):
    given = {"currency": "EUR", "tokens_in": "0.1", "tokens_out": "0.4"}
    assert client.post("/evaluations/price/", given).status_code == 403
    assert client_of(admin).post("/evaluations/price/", given).status_code == 302
    refused = client_of(admin).post("/evaluations/price/", {**given, "currency": "12"})
    assert refused.status_code == 422 and "three letters" in refused.content.decode()
    team.refresh_from_db()
    assert team.prices == {"currency": "EUR", "tokens_in": 0.1, "tokens_out": 0.4}


def _api(team: Any, user: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token_create(team=team, user=user, name='t', role='member')[1]}"}


def test_the_api_starts_and_reads_evaluations(team: Any, member: Any, version: Any, tmp_path: Path):
    headers = _api(team, member)
    body = {"model": "base", "dataset": "tickets@1", "rows": 4, "metrics": ["accuracy"]}
    made = Client().post("/v1/evaluations", body, content_type="application/json", headers=headers)
    assert made.status_code == 201 and made.json()["spec"]["metrics"] == ["accuracy"]
    evaluation = Evaluation.objects.get(pk=made.json()["id"])
    published(evaluation, tmp_path, n_right=3)
    found = Client().get(f"/v1/evaluations/{evaluation.pk}", headers=headers).json()
    assert found["metrics"] == {"accuracy": 0.75} and found["state"] == "succeeded" and found["comparisons"] == []


@pytest.mark.parametrize(
    ("change", "param"),
    [({"metrics": ["bleu"]}, "metrics"), ({"rows": "many"}, "rows"), ({"colour": 1}, "colour"), ({"model": 3}, "model"),
     ({"metrics": "all"}, "metrics")],
)  # fmt: skip
def test_the_api_says_which_field_is_wrong(change: dict[str, Any], param: str, team: Any, member: Any, version: Any):
    body = {"model": "base", "dataset": "tickets@1", **change}
    response = Client().post("/v1/evaluations", body, content_type="application/json", headers=_api(team, member))
    assert response.status_code == 400 and response.json()["error"]["param"] == param
