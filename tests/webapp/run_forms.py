"""Filling the form of a new run as a browser would."""

from __future__ import annotations

from typing import Any

from django.test import Client

from ml.specs import METHODS
from webapp.models import BaseModel, Dataset, DatasetVersion, Team

BASES = {"tiny": "decoder", "tiny-encoder": "encoder", "tiny-both": "encoder_decoder"}


def version_of(team: Team, name: str = "intents", task: str = "classification") -> DatasetVersion:
    dataset = Dataset.objects.create(team=team, name=name)
    labels = ["x", "y"] if task == "classification" else None
    splits = {"train": 40, "validation": 5, "test": 5}
    return DatasetVersion.objects.create(
        team=team, dataset=dataset, number=1, sha256="a" * 64, task=task, labels=labels, splits=splits
    )


def bases() -> None:
    """One base model of every family that can be trained, and one that cannot."""
    for name, family in {**BASES, "tiny-vectors": "embedding"}.items():
        BaseModel.objects.create(name=name, family=family)


def filled(client: Client, **changes: Any) -> dict[str, Any]:
    """What the browser would send from the untouched form, with `changes`."""
    form = client.get("/runs/new/").context["form"]
    values = {name: form[name].value() for name in form.fields}
    return {k: v for k, v in {**values, **changes}.items() if v is not None and v is not False}


def own(name: str) -> str:
    """The input of a setting that the first technique keeps for itself."""
    return f"{next(iter(METHODS))}-{name}"
