"""From a mapped file to a version, through the pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from tests.webapp.uploading import CHOICES, CSV, MAPPING, bring, file_named, rung, store, work
from webapp.models import Dataset, Run, Upload

pytestmark = pytest.mark.django_db(transaction=True)
__all__ = ["bring", "rung", "store"]
Bring = Callable[..., Upload]


@pytest.fixture
def client(member: Any, client_of: Callable[[Any], Client], store: Path, rung: list[int]) -> Client:
    return client_of(member)


def test_the_whole_way_from_a_file_to_a_version(
    client: Client, bring: Bring, team: Any, member: Any, store: Path
) -> None:
    upload = bring(team, member)
    page = f"/datasets/uploads/{upload.pk}/"
    assert client.post(f"{page}create/", {**MAPPING, **CHOICES})["Location"] == page
    run = Run.objects.get()
    assert (run.kind, run.spec["dataset"], Dataset.objects.count()) == ("validate", "support", 0)
    assert "Making support" in client.get(page).content.decode()
    version = work(run, store / "work")
    assert version is not None
    assert version.splits == {"train": 48, "validation": 6, "test": 6}
    assert client.get(f"{page}state/")["HX-Redirect"] == f"/datasets/{version.dataset_id}/?version=1"
    upload.refresh_from_db()
    assert upload.state == "used"
    again = client.post("/datasets/uploads/", {"file": file_named("same.csv")}, follow=True).content.decode()
    assert "This file is already" in again
    assert "version 1 of support" in again


def test_a_version_that_fails_shows_its_rows_at_the_file_and_makes_nothing(
    client: Client, bring: Bring, team: Any, member: Any, store: Path
) -> None:
    upload = bring(team, member, CSV + "an empty label,\n")
    page = f"/datasets/uploads/{upload.pk}/"
    client.post(f"{page}create/", {**MAPPING, **CHOICES})
    assert work(Run.objects.get(), store / "work") is None
    assert client.get(f"{page}state/")["HX-Refresh"] == "true"
    shown = client.get(page).content.decode()
    assert "1 of 61 rows cannot be used." in shown
    assert "Row 62 has nothing to learn" in shown
    assert "Leave out rows that cannot be used" in shown
    assert not Dataset.objects.exists()
    client.post(f"{page}create/", {**MAPPING, **CHOICES, "leave_out": "on"})
    version = work(Run.objects.latest("pk"), store / "again")
    assert version is not None
    assert version.stats["n_left_out"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "Support Triage"}, "Try support-triage."),
        ({"name": ""}, "This field is required."),
        ({"name": "../x"}, "lower-case letters"),
        ({"validation": "60", "test": "60"}, "90 % together"),
        ({"validation": "nan"}, "Enter a number."),
        ({"split": "column"}, "Choose the column"),
        ({"prompt": "{nope}"}, "There is no column"),
        ({"completion": "always the same"}, "Name at least one column"),
        ({"seed": "-1"}, "greater than or equal to 0"),
    ],
)
def test_a_form_that_refuses_keeps_what_was_typed(
    client: Client, bring: Bring, team: Any, member: Any, change: dict[str, str], words: str
) -> None:
    upload = bring(team, member)
    data = {**MAPPING, "prompt": "Kept: {text}", **CHOICES, **change}
    response = client.post(f"/datasets/uploads/{upload.pk}/create/", data)
    assert response.status_code == 400
    page = response.content.decode()
    assert words in page
    assert data["prompt"] in page
    assert not Run.objects.exists()


def test_a_file_that_is_being_made_into_a_version_stays(client: Client, bring: Bring, team: Any, member: Any) -> None:
    upload = bring(team, member)
    client.post(f"/datasets/uploads/{upload.pk}/create/", {**MAPPING, **CHOICES})
    assert client.post(f"/datasets/uploads/{upload.pk}/discard/").status_code == 409
    assert Upload.objects.exists()
