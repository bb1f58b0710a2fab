"""Data sets at the edge, all the way: one row, one label, 100,000 labels; handled, or refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from ml.errors import ColdframeError
from ml.specs import METHODS
from tests.webapp.dataset_calls import Api, api, error_of, made
from tests.webapp.uploading import CHOICES, MAPPING, bring, rung, store, work
from webapp.models import Evaluation, Run, Upload
from webapp.services.prompts import prompt_create

pytestmark = pytest.mark.django_db(transaction=True)
__all__ = ["api", "bring", "rung", "store"]
Bring = Callable[..., Upload]
SignIn = Callable[[Any], Client]
TEXTS = {**MAPPING, "task": "generation"}
METHOD = next(iter(METHODS))
SPEC = {"adapter": "ada", "base": "tiny", "method": METHOD, "steps": 4}


def many(n: int) -> str:
    return "text,label\n" + "".join(f"Message {i},answer {i}\n" for i in range(n))


def test_a_data_set_of_one_row_can_be_trained_on_and_measured_nowhere(
    api: Api, store: Path, member: Any, client_of: SignIn
) -> None:
    version = made(api, store, "single", "text,label\nThe only one,an answer\n", mapping=TEXTS)
    assert version.splits == {"train": 1, "validation": 0, "test": 0}
    assert "There is only one row." in client_of(member).get(f"/datasets/{version.dataset_id}/").content.decode()
    assert api.post("runs", {**SPEC, "dataset": "single@1"}).status_code == 201
    error = error_of(api.post("evaluations", {"model": "base", "dataset": "single@1"}), 400)
    assert error["message"].startswith("There are no rows in the test split of single@1.")


def test_more_examples_than_the_one_row_are_refused(api: Api, store: Path, team: Any, member: Any) -> None:
    version = made(api, store, "single", "text,label\nThe only one,an answer\n", mapping=TEXTS)
    asked = {"technique": "few_shot", "template": "{text}", "dataset": version, "pick": "random", "k": 2}
    with pytest.raises(ColdframeError, match="single@1 has 1 training row, 2 examples are wanted"):
        prompt_create(team=team, user=member, name="shots", **asked)
    assert len(prompt_create(team=team, user=member, name="shots", **{**asked, "k": 1}).examples) == 1


def test_a_data_set_of_one_label_is_kept_with_a_warning_and_used_for_nothing_that_tells_labels_apart(
    api: Api, store: Path, member: Any, client_of: SignIn
) -> None:
    rows = "text,label\n" + "".join(f"Message {i},calm\n" for i in range(30))
    version = made(api, store, "calm", rows)
    page = client_of(member).get(f"/datasets/{version.dataset_id}/").content.decode()
    assert "Every row has the same label, &#x27;calm&#x27;." in page
    for path, body in (
        ("runs", {**SPEC, "dataset": "calm@1"}),
        ("evaluations", {"model": "base", "dataset": "calm@1"}),
    ):
        error = error_of(api.post(path, body), 400)
        assert (error["param"], "the same label, 'calm'" in error["message"]) == ("dataset", True)
    assert not Evaluation.objects.exists()
    assert not Run.objects.exclude(kind="validate").exists()


def test_a_hundred_thousand_labels_are_suggested_as_texts_and_refused_as_labels(
    api: Api, bring: Bring, team: Any, member: Any, store: Path, client_of: SignIn
) -> None:
    upload = bring(team, member, many(100_000))
    assert (upload.report["n_rows"], upload.mapping["task"]) == (100_000, "generation")
    client, page = client_of(member), f"/datasets/uploads/{upload.pk}/"
    assert len(client.get(page).content) < 200_000
    client.post(f"{page}create/", {**MAPPING, **CHOICES})
    assert work(Run.objects.get(), store / "work") is None
    said = client.get(page).content.decode()
    assert "There are more than 2,000 different labels." in said
    assert "For free text choose the task “generation”." in said
    client.post(f"{page}create/", {**TEXTS, **CHOICES, "split": "random"})
    version = work(Run.objects.latest("pk"), store / "again")
    assert version is not None and version.n_rows == 100_000
    assert len(client.get(f"/datasets/{version.dataset_id}/").content) < 200_000


def test_two_thousand_labels_are_the_most_and_have_a_page(
    api: Api, store: Path, member: Any, client_of: SignIn
) -> None:
    version = made(api, store, "wide", many(2_000))
    assert len(version.labels) == 2_000
    page = client_of(member).get(f"/datasets/{version.dataset_id}/").content.decode()
    assert "There are 2,000 different labels for 2,000 rows." in page
    assert len(page) < 200_000
