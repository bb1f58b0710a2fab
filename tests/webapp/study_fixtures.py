"""A member's browser, and a study of three techniques and two seeds: asked for, and with results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from tests.webapp.study_pages import RIGHT
from tests.webapp.studying import data_version, published, submitted
from webapp.models import BaseModel, Study, Team


@pytest.fixture
def client(member: Any, client_of: Callable[[Any], Client]) -> Client:
    return client_of(member)


@pytest.fixture
def version(team: Team, tmp_path: Path) -> Any:
    BaseModel.objects.create(name="tiny", family="decoder")
    return data_version(team, tmp_path / "data")


@pytest.fixture
def asked(team: Team, member: Any, version: Any) -> Study:
    return submitted(team, member, version, seeds=[17, 18])


@pytest.fixture
def study(asked: Study, tmp_path: Path) -> Study:
    return published(asked, tmp_path, RIGHT, without_weights=["lora-s18"])
