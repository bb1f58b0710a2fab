"""Data sets: versions as they are published, the pages that show them, downloads."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import AsyncClient, Client

from ml.errors import ColdframeError
from ml.specs.csv_cells import neutral_cell
from tests.webapp.uploading import CSV, MAPPING, bring, rung, store, work
from webapp import storage
from webapp.models import AuditEvent, Dataset, DatasetVersion, Run, Upload
from webapp.selectors.datasets import histogram_of, split_bar
from webapp.services.datasets import (
    version_from_rows,
    version_publish,
    version_run_over,
    version_submit,
)  # fmt: skip

pytestmark = pytest.mark.django_db
ACROSS_THREADS = pytest.mark.django_db(transaction=True)
__all__ = ["bring", "rung", "store"]
SPLITS = {"kind": "stratified", "validation": 0.1, "test": 0.1}
ROWS = [{"text": f"message {i}", "label": ["outage", "billing"][i % 2]} for i in range(40)]
ROW_MAPPING = {"task": "classification", "prompt": "{text}", "completion": "{label}"}
Bring = Callable[..., Upload]


@pytest.fixture
def make(team: Any, member: Any, store: Path) -> Callable[..., DatasetVersion]:
    """A version of a few rows, made without a worker."""

    def _make(rows: list[dict[str, Any]] = ROWS, name: str = "support", **kwargs: Any) -> DatasetVersion:
        return version_from_rows(team=team, user=member, name=name, rows=rows, mapping=ROW_MAPPING, **kwargs)

    return _make


def test_rows_become_a_version_without_a_worker_and_leave_no_upload(make: Any, store: Path) -> None:
    version = make()
    assert (str(version), version.splits) == ("support@1", {"train": 32, "validation": 4, "test": 4})
    assert version.labels == ["billing", "outage"]
    folder = storage.path_of(version.storage_key)
    assert json.loads((folder / "dataset.json").read_text())["sha256"] == version.sha256
    assert not list((store / "storage" / "uploads").iterdir())
    assert not list((store / "runs").iterdir())


def test_web_code_that_makes_versions_imports_no_torch() -> None:
    code = (
        "import os, django; os.environ['DJANGO_SETTINGS_MODULE'] = 'webapp.settings'; django.setup();"
        "import sys, webapp.urls, webapp.services.datasets;"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr[-500:]


def test_equal_rows_make_no_second_version_and_other_rows_do(make: Any) -> None:
    assert make().pk == make().pk
    assert make(ROWS[:-2]).number == 2


def test_bad_rows_make_nothing(make: Any) -> None:
    with pytest.raises(ColdframeError, match="1 of 2 rows cannot be used") as caught:
        make([{"text": "a", "label": "b"}, {"text": "", "label": "b"}])
    assert caught.value.as_dict()["problems"][0]["row"] == 2
    assert not Dataset.objects.exists()


def test_publishing_a_run_twice_gives_one_version(bring: Bring, team: Any, member: Any, store: Path) -> None:
    upload = bring(team, member)
    run = version_submit(team=team, user=member, upload=upload, name="support", mapping=MAPPING, splits=SPLITS)
    version = work(run, store / "work")
    assert version is not None
    run.refresh_from_db()
    assert version_publish(run=run, out=store / "work" / "out").pk == version.pk
    assert DatasetVersion.objects.count() == 1
    assert (run.result["name"], version.run_id) == ("support@1", run.pk)
    assert version.stats["source"]["sha256"] == upload.sha256


def test_a_run_that_failed_leaves_its_reason_on_the_upload(bring: Bring, team: Any, member: Any) -> None:
    upload = bring(team, member)
    run = version_submit(team=team, user=member, upload=upload, name="support", mapping=MAPPING, splits=SPLITS)
    Run.objects.filter(pk=run.pk).update(error={"message": "broken"}, state="failed")
    run.refresh_from_db()
    version_run_over(run=run)
    upload.refresh_from_db()
    assert upload.error == {"message": "broken"}


def test_a_file_that_is_still_being_read_cannot_become_a_version(team: Any, member: Any, store: Path) -> None:
    upload = Upload.objects.create(team=team, filename="x.csv", size_bytes=1, sha256="0" * 64)
    with pytest.raises(ColdframeError, match="not ready") as caught:
        version_submit(team=team, user=member, upload=upload, name="x", mapping=MAPPING, splits=SPLITS)
    assert caught.value.status == 409


def test_a_version_page_shows_counts_labels_warnings_and_where_to_go(make: Any, viewer: Any, client_of: Any) -> None:
    version = make([*ROWS, {"text": "twin", "label": "Outage"}])
    page = client_of(viewer).get(f"/datasets/{version.dataset_id}/").content.decode()
    for words in ("support@1", "1 label", "Outage", "No held-out row is also in train", "message 0", version.sha256):
        assert words in page, words
    assert "Train on this" not in page


def test_a_member_may_train_on_it(make: Any, member: Any, client_of: Any) -> None:
    version = make()
    page = client_of(member).get(f"/datasets/{version.dataset_id}/").content.decode()
    assert f'href="/runs/new/?dataset_version={version.pk}"' in page


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"text": "a", "label": "b"}], "There is only one row."),
        ([{"text": f"a{i}", "label": "b"} for i in range(9)], "Every row has the same label"),
    ],
)
def test_one_row_or_one_label_is_warned_about(
    make: Any, member: Any, client_of: Any, rows: list[dict[str, Any]], words: str
) -> None:
    version = make(rows)
    assert words in client_of(member).get(f"/datasets/{version.dataset_id}/").content.decode()


def test_rows_can_be_filtered_and_paged(make: Any, viewer: Any, client_of: Any) -> None:
    version = make()
    client, url = client_of(viewer), f"/datasets/{version.dataset_id}/1/rows/"
    assert client.get(url, {"split": "test"}).content.count(b"<tr>") == 1 + 4
    assert b"26" in client.get(url, {"page": "2"}).content
    assert client.get(url, {"rows": "label:billing", "split": "test"}).content.count(b"<tr>") == 1 + 2
    assert b"No row has" in client.get(url, {"rows": "nothing like it"}).content
    assert client.get(url, {"page": "x" * 99}).status_code == 200


def test_older_versions_stay_reachable_and_unknown_ones_are_404(make: Any, viewer: Any, client_of: Any) -> None:
    first = make()
    make(ROWS[:-2])
    client = client_of(viewer)
    assert b"support@1" in client.get(f"/datasets/{first.dataset_id}/?version=1").content
    assert b"support@2" in client.get(f"/datasets/{first.dataset_id}/").content
    for number in ("3", "x", "9" * 30):
        assert client.get(f"/datasets/{first.dataset_id}/?version={number}").status_code == 404


def test_another_teams_data_does_not_exist(make: Any, stranger: Any, client_of: Any) -> None:
    version = make()
    client = client_of(stranger)
    for tail in ("", "1/rows/", "1/rows.jsonl", "1/rows.csv"):
        assert client.get(f"/datasets/{version.dataset_id}/{tail}").status_code == 404
    assert b"support@" not in client.get("/datasets/").content


def test_the_list_sorts_filters_and_hides_what_is_archived(make: Any, member: Any, client_of: Any) -> None:
    make(name="alpha")
    beta = make(ROWS[:-2], name="beta")
    client = client_of(member)
    page = client.get("/datasets/?sort=name").content.decode()
    assert page.index("alpha") < page.index("beta")
    assert "alpha" not in client.get("/datasets/?q=bet").content.decode()
    client.post(f"/datasets/{beta.dataset_id}/archive/", {"archived": "1"})
    assert "beta@" not in client.get("/datasets/").content.decode()
    assert "beta@" in client.get("/datasets/?archived=1").content.decode()
    assert AuditEvent.objects.filter(action="dataset.archive").count() == 1


def test_an_empty_list_says_what_to_do(viewer: Any, member: Any, client_of: Any) -> None:
    assert b"Bring the first file" in client_of(member).get("/datasets/").content
    assert b"Bring the first file" not in client_of(viewer).get("/datasets/").content


def test_a_description_is_kept_in_one_line(make: Any, member: Any, client_of: Any) -> None:
    version = make()
    client_of(member).post(f"/datasets/{version.dataset_id}/describe/", {"description": " mails \n and calls "})
    assert Dataset.objects.get().description == "mails and calls"


async def _download(user: Any, path: str) -> tuple[Any, bytes]:
    client = AsyncClient()
    await client.aforce_login(user)
    response = await client.get(path)
    return response, b"".join([part async for part in response.streaming_content])


@ACROSS_THREADS
def test_a_version_downloads_as_json_lines_with_every_row(make: Any, viewer: Any) -> None:
    version = make()
    response, body = asyncio.run(_download(viewer, f"/datasets/{version.dataset_id}/1/rows.jsonl"))
    rows = [json.loads(line) for line in body.splitlines()]
    assert sorted(row["row"] for row in rows) == list(range(1, 41))
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    assert response["Content-Disposition"] == 'attachment; filename="support-1.jsonl"'


@ACROSS_THREADS
def test_formulas_in_a_csv_are_made_harmless(make: Any, viewer: Any) -> None:
    version = make([{"text": '=HYPERLINK("http://x")', "label": "@a"}, {"text": "a,b", "label": "b"}])
    _, body = asyncio.run(_download(viewer, f"/datasets/{version.dataset_id}/1/rows.csv"))
    rows = list(csv.DictReader(io.StringIO(body.decode())))
    assert rows[0]["prompt"] == '\'=HYPERLINK("http://x")'
    assert rows[0]["completion"] == "'@a"
    assert rows[1]["prompt"] == "a,b"


@pytest.mark.parametrize("cell", ["=1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_every_beginning_of_a_formula_is_known(cell: str) -> None:
    assert neutral_cell(cell) == "'" + cell


def test_bars_fill_the_whole_width() -> None:
    bars = split_bar({"train": 80, "validation": 10, "test": 10})
    assert [bar["x"] for bar in bars] == ["0.00%", "80.00%", "90.00%"]
    assert split_bar({"train": 5, "validation": 0, "test": 0})[0]["width"] == "100.00%"
    assert histogram_of({}) == {}
    assert histogram_of({"bars": [0] * 23 + [4], "step": 3, "median": 70})["bars"][-1]["n"] == 4


def test_a_csv_brings_its_own_columns(bring: Bring, team: Any, member: Any) -> None:
    assert [column["name"] for column in bring(team, member, CSV).report["columns"]] == ["text", "label"]


def test_the_demos_messages_are_240_different_ones_in_six_even_queues() -> None:
    path = Path(__file__).resolve().parents[2] / "webapp" / "demo" / "support.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    labels = [row["label"] for row in rows]
    assert {label: labels.count(label) for label in labels} == dict.fromkeys(
        ("outage", "billing", "moving", "internet", "meter", "cancellation"), 40
    )
    assert len({row["text"].casefold() for row in rows}) == 240
    assert rows[0]["text"] == "My lights went out. What should I do?"


def test_signed_out_people_are_sent_to_the_sign_in_page(make: Any) -> None:
    version = make()
    assert Client().get(f"/datasets/{version.dataset_id}/1/rows.jsonl").status_code == 302
