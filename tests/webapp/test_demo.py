"""What a newcomer finds: data, a collection, prompts, and two adapters in training, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from webapp.models import BaseModel, Collection, Dataset, Membership, Prompt, Role, Run, Team
from webapp.services import demo

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_url_unreachable")]


def trainings() -> list[Run]:
    return list(Run.objects.filter(kind=Run.Kind.TRAIN).order_by("pk"))


def test_a_first_start_makes_everything_and_a_second_one_nothing() -> None:
    lines = list(demo.demo_seed())
    team = Team.objects.get(slug="demo")
    assert Membership.objects.get(team=team).role == Role.ADMIN
    assert Dataset.objects.for_team(team).get().name == "support-queue"
    assert Collection.objects.for_team(team).get().documents.count() == 12
    assert Prompt.objects.for_team(team).count() == len(demo.PROMPTS)
    assert {run.title: run.spec["method"] for run in trainings()} == {
        "support-queue-lora": "lora", "support-queue-prompt": "prompt_tuning"
    }  # fmt: skip
    assert "support-queue-lora and support-queue-prompt will be trained" in " ".join(lines)
    assert list(demo.demo_seed()) == [] and len(trainings()) == 2


def test_the_adapters_learn_the_demo_data_on_the_starter_model() -> None:
    list(demo.demo_seed())
    version = Dataset.objects.get().versions.get()
    for run in trainings():
        assert run.state == Run.State.QUEUED and run.dataset_version == version
        assert run.spec["base"] == "smollm2-135m-instruct" and run.spec["dataset_sha256"] == version.sha256


def test_the_collection_does_not_wait_for_the_trainings() -> None:
    list(demo.demo_seed())
    assert Run.objects.get(kind=Run.Kind.INGEST).pk < min(run.pk for run in trainings())


def test_nothing_is_trained_where_that_is_switched_off(settings: Any) -> None:
    settings.DEMO_TRAINS = False
    lines = list(demo.demo_seed())
    assert trainings() == [] and not any("trained" in line for line in lines)


def test_where_another_model_is_served_nothing_is_trained_unasked(settings: Any) -> None:
    settings.BASE_MODELS = ["my-8b"]
    assert "No demo adapters are trained: smollm2-135m-instruct is not one of BASE_MODELS." in list(demo.demo_seed())
    assert trainings() == []


def test_a_start_goes_on_where_the_starter_model_cannot_be_trained(settings: Any, tmp_path: Path) -> None:
    """`manage.py prepare` ended with an error, and nothing was started."""
    settings.MODELS_DIR = tmp_path
    BaseModel.objects.create(name="another", family="decoder")
    lines = list(demo.demo_seed())
    assert lines[-1].startswith("No demo adapters are trained: There is no base model 'smollm2-135m-instruct' here.")
    assert trainings() == [] and Prompt.objects.count() == len(demo.PROMPTS)


def test_a_team_that_has_data_is_left_alone() -> None:
    Dataset.objects.create(team=Team.objects.create(slug="demo", name="Demo team"), name="mine")
    list(demo.demo_seed())
    assert trainings() == [] and Dataset.objects.count() == 1
