"""Splits that are given by files of their own: this file is for training, the held-out rows came in others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from jobs.commands import prepare
from tests.webapp.uploading import CHOICES, CSV, MAPPING, bring, rung, store, work
from webapp import storage
from webapp.models import Run, Upload

pytestmark = pytest.mark.django_db(transaction=True)
__all__ = ["bring", "rung", "store"]
Bring = Callable[..., Upload]
TEST = "text,label\n" + "".join(f"Another message {i},{('outage', 'billing', 'meter')[i % 3]}\n" for i in range(9))
OTHER = "title,label\nx,outage\n"


@pytest.fixture
def client(member: Any, client_of: Callable[[Any], Client], store: Path, rung: list[int]) -> Client:
    return client_of(member)


@pytest.fixture
def files(bring: Bring, team: Any, member: Any) -> tuple[Upload, Upload]:
    return bring(team, member, CSV, "train.csv"), bring(team, member, TEST, "test.csv")


def create(client: Client, upload: Upload, **change: Any) -> Any:
    data = {**MAPPING, **CHOICES, "split": "files", **change}
    return client.post(f"/datasets/uploads/{upload.pk}/create/", data)


def test_a_version_is_made_of_the_files_and_both_are_used(
    client: Client, files: tuple[Upload, Upload], store: Path
) -> None:
    train, test = files
    assert create(client, train, test_file=test.pk).status_code == 302
    version = work(Run.objects.get(), store / "work")
    assert version is not None
    assert version.splits == {"train": 60, "validation": 0, "test": 9}
    assert [part["filename"] for part in version.stats["held_out"]] == ["test.csv"]
    assert set(Upload.objects.values_list("state", "dataset")) == {("used", version.dataset_id)}
    assert "held out: <bdi>test.csv</bdi>" in client.get(f"/datasets/{version.dataset_id}/").content.decode()


def test_the_runs_child_gets_the_path_of_every_file(client: Client, files: tuple[Upload, Upload]) -> None:
    create(client, files[0], test_file=files[1].pk)
    run = Run.objects.get()
    spec = Path(prepare(run)[4]).read_text()
    assert str(storage.path_of(files[1].storage_key)) in spec
    assert '"split": "test"' in spec


def test_files_that_are_called_train_and_test_are_put_together_by_themselves(
    client: Client, files: tuple[Upload, Upload]
) -> None:
    page = client.get(f"/datasets/uploads/{files[0].pk}/").content.decode()
    assert 'name="split" value="files" checked' in page
    assert f'<option value="{files[1].pk}" selected>test.csv, 9 rows</option>' in page


def test_a_file_with_other_columns_is_not_offered_and_not_taken(
    client: Client, files: tuple[Upload, Upload], bring: Bring, team: Any, member: Any
) -> None:
    other = bring(team, member, OTHER, "other.csv")
    assert "other.csv, " not in client.get(f"/datasets/uploads/{files[0].pk}/").content.decode()
    response = create(client, files[0], test_file=other.pk)
    assert response.status_code == 400
    assert "Select a valid choice" in response.content.decode()


@pytest.mark.parametrize("same", [True, False])
def test_no_file_and_one_file_twice_are_refused_beside_the_choice(
    client: Client, files: tuple[Upload, Upload], same: bool
) -> None:
    given = {"test_file": files[1].pk, "validation_file": files[1].pk} if same else {}
    response = create(client, files[0], **given)
    assert response.status_code == 400
    words = "Choose one file for each" if same else "Choose the file of the test rows"
    assert words in response.content.decode()
    assert not Run.objects.exists()


def test_without_another_file_the_page_says_to_bring_one(client: Client, bring: Bring, team: Any, member: Any) -> None:
    upload = bring(team, member)
    assert "No other file with these columns is here." in client.get(f"/datasets/uploads/{upload.pk}/").content.decode()


def test_a_file_that_became_held_out_rows_meanwhile_cannot_be_thrown_away(
    client: Client, files: tuple[Upload, Upload]
) -> None:
    create(client, files[0], test_file=files[1].pk)
    assert client.post(f"/datasets/uploads/{files[1].pk}/discard/").status_code == 409
