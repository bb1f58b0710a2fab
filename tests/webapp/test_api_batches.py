"""The API's files and batches, as far as the web goes: kept, listed, refused, stopped; nobody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from jobs.batch import command, keep, lines_of, prepare_batch
from jobs.batch_ask import write_results
from ml.errors import NotFoundError, SpecError
from tests.webapp.test_targets import adapter_of, move
from webapp import storage
from webapp.models import ApiFile, Batch, Outbox, Role, Run
from webapp.services.batches import batch_publish, file_delete
from webapp.services.teams import token_create

pytestmark = pytest.mark.django_db(transaction=True)
CHAT = "/v1/chat/completions"


def line(custom_id: Any = "a", body: Any = None, url: str = CHAT, **changes: Any) -> str:
    asked = {"model": "base", "messages": [{"role": "user", "content": "Hello?"}]} if body is None else body
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": asked} | changes)


class Api:
    def __init__(self, team: Any, user: Any, role: str = Role.MEMBER) -> None:
        token = token_create(team=team, user=user, name="probe", role=role)[1]
        self.client = Client(headers={"Authorization": f"Bearer {token}"})

    def upload(self, *lines: str, **fields: Any) -> Any:
        file = SimpleUploadedFile("rows.jsonl", "\n".join(lines).encode())
        return self.client.post("/v1/files", {"file": file, "purpose": "batch"} | fields)

    def batch(self, file_id: str, **fields: Any) -> Any:
        body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"} | fields
        return self.client.post("/v1/batches", json.dumps(body), content_type="application/json")

    def begun(self, *lines: str, **fields: Any) -> Batch:
        made = self.batch(self.upload(*lines).json()["id"], **fields)
        assert made.status_code == 200, made.content
        return Batch.objects.get(key=made.json()["id"].removeprefix("batch_"))


@pytest.fixture
def api(team, member, redis_url_unreachable) -> Api:
    return Api(team, member)


def items(batch: Batch, folder: Path) -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    command(batch.run, folder)
    return [json.loads(row) for row in (folder / "requests.jsonl").read_text().splitlines()]


def test_a_file_is_kept_listed_read_and_deleted(api):
    made = api.upload(line()).json()
    assert made["object"] == "file" and made["purpose"] == "batch" and made["filename"] == "rows.jsonl"
    assert api.client.get("/v1/files").json()["data"] == [made]
    assert api.client.get(f"/v1/files/{made['id']}").json() == made
    content = api.client.get(f"/v1/files/{made['id']}/content")
    assert b"".join(content.streaming_content).decode() == line()
    key = ApiFile.objects.get().storage_key
    assert api.client.delete(f"/v1/files/{made['id']}").json() == {
        "id": made["id"], "object": "file", "deleted": True,
    }  # fmt: skip
    assert not storage.exists(key) and api.client.get(f"/v1/files/{made['id']}").status_code == 404


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"purpose": "fine-tune"}, "purpose"), ({"purpose": ""}, "purpose"), ({"expires_after": "1"}, "expires_after")],
)
def test_a_file_for_anything_else_is_refused(api, fields, param):
    response = api.upload(line(), **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert not ApiFile.objects.exists()


def test_an_upload_without_a_file_or_over_the_limit_is_refused(api, settings):
    assert api.client.post("/v1/files", {"purpose": "batch"}).json()["error"]["param"] == "file"
    settings.MAX_UPLOAD_BYTES = 1024
    assert api.upload("x" * 2000).status_code == 413


def test_a_batch_is_a_run_with_its_doorbell(api, team):
    batch = api.begun(line(), metadata={"job": "nightly"})
    assert (batch.run.kind, batch.run.state, batch.run.team) == ("batch", "queued", team)
    assert Outbox.objects.filter(run=batch.run).exists()
    told = api.client.get(f"/v1/batches/{batch.api_id}").json()
    assert told["status"] == "validating" and told["metadata"] == {"job": "nightly"}
    assert told["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert [one["id"] for one in api.client.get("/v1/batches").json()["data"]] == [batch.api_id]


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"endpoint": "/v1/images"}, 400, "endpoint"), ({"completion_window": "1h"}, 400, "completion_window"),
        ({"input_file_id": "file-none"}, 404, "input_file_id"), ({"metadata": {"a": "b" * 513}}, 400, "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, 400, "metadata"), ({"surprise": 1}, 400, "surprise"),
    ],
)  # fmt: skip
def test_a_batch_that_cannot_be_is_a_clear_refusal(api, fields, status, param):
    response = api.batch(api.upload(line()).json()["id"], **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
    assert not Batch.objects.exists() and not Run.objects.exists()


def test_pages_go_on_after_the_last_row_that_was_told(api):
    made = [api.begun(line()).api_id for _ in range(5)]
    first = api.client.get("/v1/batches?limit=2").json()
    second = api.client.get(f"/v1/batches?limit=3&after={first['last_id']}").json()
    assert [b["id"] for b in [*first["data"], *second["data"]]] == made[::-1]
    assert first["has_more"] and not second["has_more"]
    assert api.client.get("/v1/files?limit=0").json()["error"]["param"] == "limit"


def test_a_viewer_may_look_but_not_ask(api, team, viewer):
    batch = api.begun(line())
    other = Api(team, viewer, Role.VIEWER)
    assert other.client.get(f"/v1/batches/{batch.api_id}").status_code == 200
    assert other.upload(line()).status_code == 403
    assert other.client.post(f"/v1/batches/{batch.api_id}/cancel").status_code == 403
    assert other.client.delete(f"/v1/files/{batch.input_name}").status_code == 403


def test_another_teams_files_and_batches_do_not_exist(api, other_team, stranger):
    batch = api.begun(line())
    other = Api(other_team, stranger, Role.ADMIN)
    for method, path in [
        ("get", f"files/{batch.input_name}"), ("get", f"files/{batch.input_name}/content"),
        ("delete", f"files/{batch.input_name}"), ("get", f"batches/{batch.api_id}"),
        ("post", f"batches/{batch.api_id}/cancel"), ("get", f"files?after={batch.input_name}"),
    ]:  # fmt: skip
        assert getattr(other.client, method)(f"/v1/{path}").status_code == 404
    assert other.batch(batch.input_name).status_code == 404
    assert other.client.get("/v1/files").json()["data"] == other.client.get("/v1/batches").json()["data"] == []


def test_a_waiting_batch_is_stopped_at_once_and_only_once(api):
    batch = api.begun(line())
    told = api.client.post(f"/v1/batches/{batch.api_id}/cancel").json()
    assert told["status"] == "cancelled" and told["cancelled_at"]
    assert api.client.post(f"/v1/batches/{batch.api_id}/cancel").status_code == 409


def test_a_file_that_a_batch_still_reads_stays(api, member):
    batch = api.begun(line())
    response = api.client.delete(f"/v1/files/{batch.input_name}")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "file_in_use")
    Run.objects.update(state=Run.State.SUCCEEDED)
    file_delete(file=batch.input_file, user=member)
    assert api.client.get(f"/v1/batches/{batch.api_id}").json()["input_file_id"] == batch.input_name


# What the worker makes of the file


def test_each_line_becomes_requests_or_a_refusal_of_its_own(api, team, tmp_path):
    adapter = adapter_of(team, "triage", 1, 2)
    move(adapter, "production", 1)
    ask = [{"role": "user", "content": "Hi"}]
    batch = api.begun(
        line("plain"), "", line("two", {"model": "triage", "messages": ask, "n": 2, "seed": 4}),
        line("unknown", {"model": "nobody", "messages": ask}), line("bad", {"model": "base", "messages": []}),
        line("stream", {"model": "base", "messages": ask, "stream": True}),
    )  # fmt: skip
    found = items(batch, tmp_path / "w")
    assert [item["custom_id"] for item in found] == ["plain", "two", "unknown", "bad", "stream"]
    assert len(found[1]["requests"]) == 2 and found[1]["reply"]["model"] == "triage@1"
    assert [item.get("error", {}).get("code") for item in found[2:]] == [
        "model_not_found", "invalid_spec", "invalid_spec",
    ]  # fmt: skip
    move(adapter, "production", 2)
    assert items(batch, tmp_path / "w") == found, "an alias that moved changes nothing of a batch that has begun"


@pytest.mark.parametrize(
    ("rows", "number", "reason"),
    [
        (["{"], 1, "no JSON"), ([line(), "[]"], 2, "must be an object"), ([line(), line()], 2, "stands twice"),
        ([line(7)], 1, "custom_id"), ([line("x" * 200)], 1, "custom_id"), ([line(url="/v1/embeddings")], 1, "url"),
        ([line(method="GET")], 1, "method"), ([line(body=[])], 1, "body"), ([line(surprise=1)], 1, "nothing else"),
        (["[" * 100_000], 1, "no JSON"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_request_a_line_fails_the_batch_by_its_line(tmp_path, rows, number, reason):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(rows))
    with pytest.raises(SpecError, match=reason) as caught:
        lines_of(path, CHAT)
    assert caught.value.field == f"line {number}" and str(caught.value).startswith(f"Line {number}")


def test_a_file_without_requests_or_with_bytes_that_are_no_text_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n\n")
    with pytest.raises(SpecError, match="no requests"):
        lines_of(path, CHAT)
    path.write_bytes(b'{"custom_id": "\xff"}')
    with pytest.raises(SpecError, match="no JSON"):
        lines_of(path, CHAT)


def test_a_batch_whose_file_was_deleted_meanwhile_says_so(api, tmp_path):
    batch = api.begun(line())
    batch.input_file.delete()
    with pytest.raises(NotFoundError, match="deleted"):
        items(batch, tmp_path / "w")


def test_a_failed_batch_tells_the_line(api):
    batch = api.begun(line())
    error = {"code": "invalid_spec", "message": "Line 3: it is no JSON.", "hint": "Mend it.", "field": "line 3"}
    Run.objects.update(state=Run.State.FAILED, error=error)
    told = api.client.get(f"/v1/batches/{batch.api_id}").json()
    assert told["status"] == "failed" and told["errors"]["data"][0]["line"] == 3


def answer(place: int, status: int = 200) -> dict[str, Any]:
    response = {"status_code": status, "request_id": "rq_1", "body": {"n": place}}
    return {"place": place, "id": f"batch_req_{place}", "custom_id": str(place), "response": response, "error": None}


def test_answers_become_files_once_however_often_they_are_published(api, tmp_path):
    batch = api.begun(line("0"), line("1"), line("2"))
    write_results(tmp_path / "out", [answer(0), answer(1, 404), answer(2)])
    for _ in range(2):
        _, values = prepare_batch(batch.run, tmp_path / "out")
        batch_publish(run=batch.run, out=tmp_path / "out", **values)
    Run.objects.update(state=Run.State.SUCCEEDED)
    told = api.client.get(f"/v1/batches/{batch.api_id}").json()
    assert told["status"] == "completed"
    assert told["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    content = api.client.get(f"/v1/files/{told['output_file_id']}/content")
    rows = [json.loads(row) for row in b"".join(content.streaming_content).splitlines()]
    assert [row["custom_id"] for row in rows] == ["0", "2"] and "place" not in rows[0]
    assert told["error_file_id"] and ApiFile.objects.count() == 3


def test_what_a_stopped_batch_had_answered_is_kept_and_gives_way_to_more(api, tmp_path):
    batch = api.begun(line("0"), line("1"))
    (tmp_path / "answers.jsonl").write_text(json.dumps(answer(0)) + "\n" + '{"place": 1, "resp')
    Run.objects.update(state=Run.State.CANCELLED)
    keep(batch.run.pk, tmp_path)
    told = api.client.get(f"/v1/batches/{batch.api_id}").json()
    assert told["request_counts"]["completed"] == 1 and told["output_file_id"]
    write_results(tmp_path / "out", [answer(0), answer(1)])
    batch_publish(run=batch.run, out=tmp_path / "out", **prepare_batch(batch.run, tmp_path / "out")[1])
    again = api.client.get(f"/v1/batches/{batch.api_id}").json()
    assert again["request_counts"]["completed"] == 2 and again["output_file_id"] != told["output_file_id"]
    assert api.client.get(f"/v1/files/{told['output_file_id']}").status_code == 404


def test_a_batch_stands_among_the_runs(api, member, client_of):
    batch = api.begun(line())
    client = client_of(member)
    assert "rows.jsonl" in client.get("/runs/").content.decode()
    page = client.get(f"/runs/{batch.run.pk}/")
    assert page.status_code == 200 and batch.api_id in page.content.decode()
