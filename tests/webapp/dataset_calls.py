"""Calls of the API's data set routes with one person's token, and the way from a file to a version through them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from tests.webapp.uploading import CSV, MAPPING, inspect, work
from webapp.models import DatasetVersion, Role, Run
from webapp.services.teams import token_create


class Api:
    """Calls with one person's token."""

    def __init__(self, team: Any, user: Any, role: str = Role.MEMBER) -> None:
        token = token_create(team=team, user=user, name="t", role=role)[1]
        self.headers = {"Authorization": f"Bearer {token}"}

    def get(self, path: str) -> Any:
        return Client().get(f"/v1/{path}", headers=self.headers)

    def post(self, path: str, body: Any) -> Any:
        return Client().post(f"/v1/{path}", body, content_type="application/json", headers=self.headers)

    def raw(self, query: str, body: bytes, content_type: str = "application/octet-stream") -> Any:
        return Client().post(f"/v1/datasets/uploads{query}", body, content_type=content_type, headers=self.headers)

    def form(self, **fields: Any) -> Any:
        return Client().post("/v1/datasets/uploads", fields, headers=self.headers)

    def delete(self, path: str) -> Any:
        return Client().delete(f"/v1/{path}", headers=self.headers)


@pytest.fixture
def api(team: Any, member: Any, store: Path, rung: list[int]) -> Api:
    return Api(team, member)


@pytest.fixture
def version(api: Api, store: Path) -> DatasetVersion:
    """support@1, made through the API."""
    return made(api, store, "support")


def made(api: Api, store: Path, name: str, content: str = CSV, **body: Any) -> DatasetVersion:
    upload = api.raw("?filename=tickets.csv", content.encode()).json()["id"]
    inspect(upload)
    run = api.post(f"datasets/uploads/{upload}/versions", {"name": name, "mapping": MAPPING, **body}).json()["id"]
    version = work(Run.objects.get(pk=run), store / f"work{run}")
    assert version is not None
    return version


def error_of(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.content
    error: dict[str, Any] = response.json()["error"]
    return error
