"""The API's data sets: lists, reports, rows, differences, downloads; nothing of another team, no wrong verb."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import AsyncClient, Client

from tests.webapp.dataset_calls import Api, api, error_of, made, version
from tests.webapp.uploading import CSV, MAPPING, bring, rung, store
from webapp.models import Dataset, DatasetVersion, Role, Upload

pytestmark = pytest.mark.django_db(transaction=True)
__all__ = ["api", "bring", "rung", "store", "version"]
Bring = Callable[..., Upload]


def test_the_list_pages_by_name_and_hides_what_is_archived(api: Api, team: Any, member: Any) -> None:
    for name in ("b", "a", "c"):
        Dataset.objects.create(team=team, created_by=member, name=name, is_archived=name == "c")
    page = api.get("datasets?limit=1").json()
    assert ([one["name"] for one in page["data"]], page["has_more"]) == (["a"], True)
    assert [one["name"] for one in api.get("datasets?offset=1").json()["data"]] == ["b"]
    assert [one["name"] for one in api.get("datasets?archived=1").json()["data"]] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("datasets?limit=0", "limit"), ("datasets?limit=many", "limit"), ("datasets?offset=-1", "offset"),
        ("datasets/support/versions/1/rows?limit=1001", "limit"),
        ("datasets/support/versions/1/rows?split=moon", "split"),
        ("datasets/support/versions/1/export?format=xlsx", "format"),
        ("datasets/support/versions/1/diff?against=0", "against"),
    ],
)  # fmt: skip
def test_a_query_out_of_bounds_is_named(api: Api, version: DatasetVersion, path: str, param: str) -> None:
    assert error_of(api.get(path), 400)["param"] == param


def test_rows_are_paged_narrowed_and_whole(api: Api, version: DatasetVersion) -> None:
    path = "datasets/support/versions/1/rows"
    seen, offset = [], 0
    while offset is not None:
        page = api.get(f"{path}?limit=25&offset={offset}").json()
        seen, offset = [*seen, *page["data"]], page["next_offset"]
    assert len(seen) == 60 == len({row["row"] for row in seen})
    assert set(seen[0]) == {"row", "split", "messages", "completion"}
    assert {row["split"] for row in api.get(f"{path}?split=test").json()["data"]} == {"test"}
    found = api.get(f"{path}?query=label:meter&limit=5&offset=18").json()
    assert ([row["completion"] for row in found["data"]], found["next_offset"]) == (["meter"] * 2, None)
    assert api.get(f"{path}?offset=1000").json() == {"object": "list", "data": [], "next_offset": None}


def test_a_page_of_long_rows_is_cut_short_and_goes_on(api: Api, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from webapp.selectors import dataset_rows

    made(api, store, "support")
    monkeypatch.setattr(dataset_rows, "MAX_SLICE", 100)
    page = api.get("datasets/support/versions/1/rows?limit=50").json()
    assert 1 < len(page["data"]) < 10
    assert page["next_offset"] == len(page["data"])


async def _exported(api: Api, query: str) -> tuple[Any, str]:
    path = f"/v1/datasets/sums/versions/1/export{query}"
    response = await AsyncClient().get(path, headers=api.headers)
    return response, b"".join([part async for part in response]).decode()


def test_a_version_is_exported_as_the_page_does_it(api: Api, store: Path) -> None:
    made(api, store, "sums", "text,label\n=HYPERLINK(1),+1\nother,b\n", splits={"validation": 0, "test": 0})
    _, lines = asyncio.run(_exported(api, ""))
    assert {json.loads(line)["completion"] for line in lines.splitlines()} == {"+1", "b"}
    answer, text = asyncio.run(_exported(api, "?format=csv"))
    assert answer["Content-Disposition"] == 'attachment; filename="sums-1.csv"'
    table = list(csv.DictReader(io.StringIO(text)))
    assert {row["completion"] for row in table} == {"'+1", "b"}
    assert "Queue of: =HYPERLINK(1)" in {row["prompt"] for row in table}


def test_two_versions_are_compared(api: Api, version: DatasetVersion, store: Path) -> None:
    made(api, store, "support", CSV.replace("number 7,", "number seven,"))
    found = api.get("datasets/support/versions/2/diff").json()
    assert (found["before"], found["after"], found["n_before"], found["n_after"]) == ("support@1", "support@2", 60, 60)
    assert (found["added"]["n"], found["removed"]["n"]) == (1, 1)
    assert "number seven" in found["added"]["examples"][0]["text"]
    same = api.get("datasets/support/versions/2/diff?against=2").json()
    assert same["same"]["n"] == 60


PATHS = (
    "datasets/support", "datasets/support/versions/1", "datasets/support/versions/1/rows",
    "datasets/support/versions/1/export", "datasets/support/versions/1/diff",
)  # fmt: skip


def test_another_teams_data_sets_and_files_do_not_exist(
    api: Api, version: DatasetVersion, other_team: Any, stranger: Any
) -> None:
    theirs, upload = Api(other_team, stranger, Role.ADMIN), Upload.objects.get()
    for path in (*PATHS, f"datasets/uploads/{upload.pk}"):
        assert "in this team" in error_of(theirs.get(path), 404)["message"]
    for path, body in ((f"datasets/uploads/{upload.pk}/mapping", MAPPING),
                       (f"datasets/uploads/{upload.pk}/versions", {"name": "x", "mapping": MAPPING})):  # fmt: skip
        error_of(theirs.post(path, body), 404)
    error_of(theirs.delete(f"datasets/uploads/{upload.pk}"), 404)
    assert theirs.get("datasets").json()["data"] == theirs.get("datasets/uploads").json()["data"] == []


def test_another_teams_file_is_no_file_of_held_out_rows(
    api: Api, bring: Bring, team: Any, member: Any, other_team: Any, stranger: Any
) -> None:
    mine, theirs = bring(team, member), bring(other_team, stranger, CSV + "x,meter\n")
    body = {"name": "support", "splits": {"kind": "files", "test": theirs.pk}}
    error = error_of(api.post(f"datasets/uploads/{mine.pk}/versions", body), 400)
    assert error["message"].startswith(f"There is no upload {theirs.pk} in this team.")


@pytest.mark.parametrize("path", ["datasets/none", "datasets/support/versions/7", "datasets/support/versions/7/rows"])
def test_what_is_not_there_is_404(api: Api, version: DatasetVersion, path: str) -> None:
    error_of(api.get(path), 404)


def test_a_viewer_reads_and_brings_nothing(api: Api, version: DatasetVersion, team: Any, viewer: Any) -> None:
    looks, upload = Api(team, viewer, Role.VIEWER), Upload.objects.get()
    for path in ("datasets", *PATHS):
        assert looks.get(path).status_code == 200
    assert looks.raw("?filename=a.csv", CSV.encode()).status_code == 403
    assert looks.get(f"datasets/uploads/{upload.pk}").status_code == 403
    assert looks.delete(f"datasets/uploads/{upload.pk}").status_code == 403
    for tail in ("mapping", "versions"):
        assert looks.post(f"datasets/uploads/{upload.pk}/{tail}", {}).status_code == 403


def test_wrong_verbs_change_nothing(api: Api, version: DatasetVersion) -> None:
    upload = Upload.objects.get()
    for path in ("datasets", *PATHS):
        assert api.post(path, {}).status_code == 405
        assert api.delete(path).status_code == 405
    for tail in ("mapping", "versions"):
        assert api.get(f"datasets/uploads/{upload.pk}/{tail}").status_code == 405
    assert (Upload.objects.count(), DatasetVersion.objects.count()) == (1, 1)


def test_the_description_says_what_the_routes_take(db: None) -> None:
    paths = Client().get("/v1/openapi.json").json()["paths"]
    brought = paths["/v1/datasets/uploads"]["post"]["requestBody"]["content"]
    assert {"multipart/form-data", "application/octet-stream"} <= set(brought)
    asked = {one["name"] for one in paths["/v1/datasets/{name}/versions/{number}/rows"]["get"]["parameters"]}
    assert asked == {"name", "number", "split", "query", "limit", "offset"}
