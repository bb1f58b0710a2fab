"""The API's uploads: a file comes, is looked at, mapped, and made into a version by a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.webapp.dataset_calls import Api, api, error_of, made, version
from tests.webapp.uploading import CSV, MAPPING, bring, file_named, inspect, rung, store, work
from webapp.models import Dataset, DatasetVersion, Run, Upload

pytestmark = pytest.mark.django_db(transaction=True)
__all__ = ["api", "bring", "rung", "store", "version"]
Bring = Callable[..., Upload]


@pytest.mark.parametrize("way", ["form", "bare", "urlencoded"])
def test_a_file_comes_as_a_form_or_bare_and_is_looked_at(api: Api, rung: list[int], way: str) -> None:
    """curl --data-binary calls any body a urlencoded form; it is the file all the same."""
    if way == "form":
        response = api.form(file=file_named("tickets.csv"))
    else:
        kind = "application/x-www-form-urlencoded" if way == "urlencoded" else "text/csv"
        response = api.raw("?filename=tickets.csv", CSV.encode(), kind)
    assert response.status_code == 201
    said = response.json()
    assert (said["object"], said["state"], said["filename"], said["bytes"]) == (
        "upload", "reading", "tickets.csv", len(CSV)
    )  # fmt: skip
    assert rung == [said["id"]]


def test_the_same_bytes_come_back_as_what_they_are(api: Api) -> None:
    first = api.raw("?filename=tickets.csv", CSV.encode())
    again = api.raw("?filename=copy.csv", CSV.encode())
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]


@pytest.mark.parametrize(
    ("query", "body", "status", "param"),
    [
        ("", CSV.encode(), 400, "filename"),
        ("?filename=a.csv", b"", 400, None),
        ("?filename=a.exe", b"x", 415, None),
        ("?filename=a.csv", b"PK\x03\x04", 415, None),
    ],
)
def test_a_refused_body_leaves_nothing_and_says_why(
    api: Api, query: str, body: bytes, status: int, param: str | None
) -> None:
    assert error_of(api.raw(query, body), status)["param"] == param
    assert not Upload.objects.exists()


def test_a_form_without_a_file_and_one_that_is_broken_are_400(api: Api) -> None:
    assert error_of(api.form(data="x"), 400)["param"] == "file"
    broken = api.raw("", b"no boundary here", "multipart/form-data")
    assert error_of(broken, 400)["param"] == "file"


@pytest.mark.parametrize("way", ["form", "bare"])
def test_too_many_bytes_are_413_and_leave_nothing(api: Api, settings: Any, store: Path, way: str) -> None:
    settings.MAX_UPLOAD_BYTES = 1024
    big = CSV * 10
    response = api.form(file=file_named("a.csv", big)) if way == "form" else api.raw("?filename=a.csv", big.encode())
    assert "uploads may have" in error_of(response, 413)["message"]
    assert not Upload.objects.exists()
    assert not list((store / "storage").glob("uploads/*"))


def test_what_was_found_is_told_with_the_rows_as_the_model_sees_them(api: Api) -> None:
    pk = api.raw("?filename=tickets.csv", CSV.encode()).json()["id"]
    assert api.get(f"datasets/uploads/{pk}").json()["report"] == {}
    inspect(pk)
    said = api.get(f"datasets/uploads/{pk}").json()
    assert (said["state"], said["report"]["n_rows"], said["report"]["recognised"]) == ("ready", 60, "text_label")
    assert said["mapping"]["completion"] == "{label}"
    assert "My message number 0" in json.dumps(said["preview"]["rows"][0]["pieces"])
    assert [one["id"] for one in api.get("datasets/uploads").json()["data"]] == [pk]


def test_another_mapping_is_kept_and_previewed(api: Api, bring: Bring, team: Any, member: Any) -> None:
    upload = bring(team, member)
    answer = api.post(f"datasets/uploads/{upload.pk}/mapping", {**MAPPING, "prompt": "Say the queue. {text}"})
    assert (answer.status_code, answer.json()["preview"]) == (202, None)
    inspect(upload.pk)
    said = api.get(f"datasets/uploads/{upload.pk}").json()
    assert said["mapping"]["prompt"] == "Say the queue. {text}"
    assert "Say the queue. " in json.dumps(said["preview"]["rows"][0]["pieces"])


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"prompt": "{body}"}, "prompt", "There is no column {body}. Known here: {text}, {label}."),
        ({"completion": "always the same"}, "completion", "Name at least one column"),
        ({"prompt": ""}, "prompt", "Name at least one column"),
        ({"task": "poetry"}, "task", "task must be one of"),
        ({"format": "sharegpt"}, "format", "format must be one of columns"),
        ({"turns": "some"}, "turns", ""),
        ({"colour": "red"}, "colour", "Unknown field"),
        ({"prompt": "{text}\x00"}, "prompt", "NUL"),
        ({"prompt": 7}, "prompt", ""),
        ({"prompt": "{text}" + "x" * 20_000}, "prompt", "at most 20,000 characters"),
    ],
)
def test_a_mapping_that_cannot_work_is_refused_by_field(
    api: Api, bring: Bring, team: Any, member: Any, change: dict[str, Any], param: str, words: str
) -> None:
    upload = bring(team, member)
    error = error_of(api.post(f"datasets/uploads/{upload.pk}/mapping", {**MAPPING, **change}), 400)
    assert error["param"] == param
    assert words in error["message"]


def test_a_file_that_is_still_being_read_can_be_neither_mapped_nor_made_into_a_version(api: Api) -> None:
    pk = api.raw("?filename=tickets.csv", CSV.encode()).json()["id"]
    for tail, body in (("mapping", MAPPING), ("versions", {"name": "support", "mapping": MAPPING})):
        assert "not ready" in error_of(api.post(f"datasets/uploads/{pk}/{tail}", body), 409)["message"]


def test_a_version_is_made_by_a_run_that_is_answered_at_once(api: Api, store: Path) -> None:
    pk = api.raw("?filename=tickets.csv", CSV.encode()).json()["id"]
    inspect(pk)
    answer = api.post(f"datasets/uploads/{pk}/versions", {"name": "support"})
    run = answer.json()
    assert (answer.status_code, run["kind"], run["state"]) == (202, "validate", "queued")
    assert answer["Location"] == f"/v1/runs/{run['id']}"
    assert not Dataset.objects.exists()
    work(Run.objects.get(), store / "work")
    assert api.get(f"runs/{run['id']}").json()["result"]["name"] == "support@1"
    said = api.get("datasets/support/versions/1").json()
    assert said["splits"] == {"train": 48, "validation": 6, "test": 6}
    assert [row["label"] for row in said["report"]["labels"]] == ["billing", "meter", "outage"]
    assert api.get(f"datasets/uploads/{pk}").json()["versions"] == ["support@1"]


def test_a_used_file_makes_another_version_with_other_splits(api: Api, version: DatasetVersion, store: Path) -> None:
    second = made(api, store, "support", splits={"kind": "random", "validation": 0.2, "test": 0.3}, seed=3)
    assert (str(second), second.splits) == ("support@2", {"train": 30, "validation": 12, "test": 18})
    said = api.get("datasets/support").json()
    assert said["newest"] == "support@2"
    assert [one["name"] for one in said["versions"]] == ["support@2", "support@1"]


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"name": "Support Triage"}, "name", "Try support-triage."),
        ({"name": "uploads"}, "name", "No data set can be called uploads."),
        ({}, "name", "missing"),
        ({"splits": {"kind": "random", "validation": 0.6, "test": 0.6}}, "test", "120% of the rows"),
        ({"splits": {"validation": -1}}, "validation", "between 0 and 0.9"),
        ({"splits": {"validation": "NaN"}}, "validation", "got nan"),
        ({"splits": {"kind": "column", "column": "nope"}}, "column", "no column 'nope'"),
        ({"splits": {"kind": "files"}}, "test", "No file was named"),
        ({"splits": {"kind": "files", "test": 999}}, "test", "There is no upload 999"),
        ({"splits": {"kind": "files", "test": 1.5}}, "test", "must be the number of an upload"),
        ({"splits": {"kind": "moon"}}, "splits.kind", ""),
        ({"seed": -1}, "seed", "from 0 to 2,147,483,647, got -1"),
        ({"mapping": {**MAPPING, "prompt": "{nope}"}}, "prompt", "There is no column {nope}."),
        ({"leave_out": "perhaps"}, "leave_out", ""),
        ({"colour": 1}, "colour", "Unknown field"),
    ],
)
def test_a_version_that_cannot_be_is_refused_by_field(
    api: Api, bring: Bring, team: Any, member: Any, body: dict[str, Any], param: str, words: str
) -> None:
    upload = bring(team, member)
    body = body if body == {} else {"name": "support", **body}
    error = error_of(api.post(f"datasets/uploads/{upload.pk}/versions", body), 400)
    assert error["param"] == param
    assert words in error["message"]
    assert not Run.objects.exists()


@pytest.mark.parametrize("body", ["", "[]", "null", "{", '{"name": NaN}', "\ud800", "[" * 100_000])
def test_a_body_that_is_no_object_is_a_400(api: Api, bring: Bring, team: Any, member: Any, body: str) -> None:
    upload = bring(team, member)
    text = body.encode("utf-8", "surrogatepass")
    error_of(api.post(f"datasets/uploads/{upload.pk}/versions", text), 400)


def test_rows_that_cannot_be_read_must_be_left_out_on_purpose(
    api: Api, bring: Bring, team: Any, member: Any, store: Path
) -> None:
    upload = bring(team, member, CSV + "one cell only\n")
    path = f"datasets/uploads/{upload.pk}/versions"
    error = error_of(api.post(path, {"name": "support"}), 400)
    assert (error["param"], error["code"]) == ("leave_out", "bad_rows")
    assert "Row 62 has 1 cells, the header has 2." in error["message"]
    run = api.post(path, {"name": "support", "leave_out": True}).json()
    version = work(Run.objects.get(pk=run["id"]), store / "work")
    assert version is not None and version.stats["n_left_out"] == 1


def test_rows_that_cannot_be_mapped_end_the_run_with_their_numbers(
    api: Api, bring: Bring, team: Any, member: Any, store: Path
) -> None:
    upload = bring(team, member, CSV + "an empty label,\n")
    run = api.post(f"datasets/uploads/{upload.pk}/versions", {"name": "support"}).json()
    assert work(Run.objects.get(), store / "work") is None
    said = api.get(f"runs/{run['id']}").json()
    assert (said["state"], said["error"]["problems"][0]["row"]) == ("failed", 62)


def test_held_out_rows_come_in_files_of_their_own(api: Api, bring: Bring, team: Any, member: Any, store: Path) -> None:
    train, test = bring(team, member), bring(team, member, "text,label\nAnother,outage\n", "test.csv")
    body = {"name": "support", "splits": {"kind": "files", "test": test.pk}}
    run = api.post(f"datasets/uploads/{train.pk}/versions", body).json()
    version = work(Run.objects.get(pk=run["id"]), store / "work")
    assert version is not None and version.splits == {"train": 60, "validation": 0, "test": 1}


def test_a_file_without_a_version_can_be_forgotten_and_one_with_a_version_not(
    api: Api, version: DatasetVersion, bring: Bring, team: Any, member: Any
) -> None:
    upload = bring(team, member, CSV + "more,meter\n")
    assert api.delete(f"datasets/uploads/{upload.pk}").status_code == 204
    used = Upload.objects.get()
    error_of(api.delete(f"datasets/uploads/{used.pk}"), 409)


def test_a_file_of_a_hub_is_fetched_by_a_run(api: Api) -> None:
    answer = api.post("datasets/uploads/hub", {"repo": "someone/tickets", "file": "train.csv"})
    assert answer.status_code == 202
    run = Run.objects.get(pk=answer.json()["run"])
    assert (run.kind, run.spec["repo"]) == ("validate", "someone/tickets")
    assert error_of(api.post("datasets/uploads/hub", {"repo": "../x"}), 400)["param"] == "repo"
