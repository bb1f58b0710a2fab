"""The API's answers and refusals, in OpenAI's shape, engine played by script."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.test import AsyncClient

from jobs import stream
from ml.errors import ContextTooLongError, UnavailableError
from tests.webapp.api_client import HELLO, Answering, asked, call, echo, error_of
from tests.webapp.responder import Responder
from tests.webapp.test_targets import adapter_of
from webapp import live
from webapp.models import ApiToken, Collection, Membership, Role
from webapp.services.teams import token_create

pytestmark = pytest.mark.django_db(transaction=True)


async def test_a_whole_answer_has_openais_shape(engine, token):
    with Answering(engine, echo):
        response = await asked(token)
    body = json.loads(response.content)
    assert body["object"] == "chat.completion"
    assert body["model"] == "base"
    assert body["choices"][0]["message"]["content"] == "Both owners [1], not [7]."
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
    assert response.headers["X-Request-ID"].startswith("rq_")


async def test_an_answer_from_a_collection_comes_with_its_citations(engine, token, team):
    await Collection.objects.acreate(team=team, name="law")
    with Answering(engine, echo):
        body = json.loads((await asked(token, collection="law")).content)
    assert body["choices"][0]["message"]["content"] == "Both owners [1], not."
    assert [(c["n"], c["is_cited"]) for c in body["coldframe"]["citations"]] == [(1, True), (2, False)]


async def test_an_adapters_alias_is_resolved_and_the_version_named(engine, token, team):
    adapter = await sync_to_async(adapter_of)(team, "triage", 1)
    version = await adapter.versions.aget()
    await adapter.aliases.acreate(team=team, name="production", version=version)
    with Answering(engine, echo):
        body = json.loads((await asked(token, model="triage@production")).content)
    assert body["model"] == "triage@1"


async def test_a_stream_ends_in_usage_and_done(engine, token):
    with Answering(engine, echo):
        response = await asked(token, stream=True, stream_options={"include_usage": True})
        lines = [part.decode() async for part in response.streaming_content]
    objects = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    text = "".join(c["delta"].get("content") or "" for o in objects for c in o["choices"])
    assert text == "Both owners [1], not [7]."
    assert objects[-1]["choices"] == [] and objects[-1]["usage"]["completion_tokens"] == 5
    assert objects[-2]["choices"][0]["finish_reason"] == "stop"
    assert lines[-1] == "data: [DONE]\n\n"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_longer_than_the_context_is_a_400_that_says_what_fits(engine, token, stream):
    def refuse(responder: Responder, request: Any) -> None:
        responder.fail(request, ContextTooLongError("The prompt has 3,000 tokens; 1,792 fit beside 256 to answer."))

    with Answering(engine, refuse):
        response = await asked(token, stream=stream)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["code"], "1,792 fit" in error["message"]) == ("context_length_exceeded", True)


async def test_an_error_in_the_middle_of_a_stream_is_its_last_object(engine, token):
    def break_off(responder: Responder, request: Any) -> None:
        responder.start(request)
        responder.say(request, "Half")
        responder.fail(request, ContextTooLongError("Too long."))

    with Answering(engine, break_off):
        response = await asked(token, stream=True)
        lines = [part.decode() async for part in response.streaming_content]
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["message"] == "Too long."


async def test_a_reader_who_leaves_stops_the_row(engine, token):
    begun: list[Any] = []

    def begin(responder: Responder, request: Any) -> None:
        responder.start(request)
        responder.say(request, "Half")
        begun.append(request)

    with Answering(engine, begin):
        response = await asked(token, stream=True)
        await anext(aiter(response.streaming_content))
        await sync_to_async(response.close)()
    assert engine.is_cancelled(begun[0])


@pytest.mark.parametrize("how", ["revoked", "suspended"])
async def test_a_stream_is_cut_when_its_token_is_worth_nothing_any_more(engine, token, monkeypatch, member, how):
    monkeypatch.setattr(live, "CHECK_S", 0.0)
    begun: list[Any] = []

    def begin(responder: Responder, request: Any) -> None:
        responder.start(request)
        responder.say(request, "Half")
        begun.append(request)

    with Answering(engine, begin):
        response = await asked(token, stream=True)
        if how == "revoked":
            from django.utils import timezone

            await ApiToken.objects.aupdate(revoked_at=timezone.now())
        else:
            await Membership.objects.filter(user=member).aupdate(is_suspended=True)
        lines = [part.decode() async for part in response.streaming_content]
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "invalid_api_key"
    assert engine.is_cancelled(begun[0])


def shaped(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def nested(n: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(n):
        schema = {"items": schema}
    return schema


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": []}, "tools"), ({"tool_choice": "auto"}, "tool_choice"), ({"functions": []}, "functions"),
    ({"chat_template": "{{ range(10**9) }}"}, "chat_template"), ({"chat_template_kwargs": {}}, "chat_template_kwargs"),
    ({"n": 0}, "n"), ({"n": 1000}, "n"), ({"n": True}, "n"), ({"surprise": 1}, "surprise"),
    ({"top_logprobs": 3}, "top_logprobs"), ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"stream_options": {"include_usage": True}}, "stream_options"), ({"deadline_s": 0}, "deadline_s"),
    ({"deadline_s": 1e9}, "deadline_s"), ({"logit_bias": {"1": 5}}, "logit_bias"), ({"top_k": -1}, "top_k"),
    ({"max_tokens": 10**9}, "max_tokens"), ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": -5}, "max_tokens"),
    ({"max_completion_tokens": 10**30}, "max_tokens"), ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"), ({"top_p": 0}, "top_p"), ({"seed": 1.5}, "seed"),
    ({"stop": ["x"] * 9}, "stop"), ({"stop": ["x" * 100_000]}, "stop"), ({"stop": [""]}, "stop"),
    ({"stop": ["x" * 64] * 16_000}, "stop"), ({"stop": [7]}, "stop"),
    ({"messages": []}, "messages"), ({"messages": "hi"}, "messages"), ({"messages": [{"role": "user"}]}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
    ({"messages": [{"role": "user", "content": "x" * 200_001}]}, "messages"),
    ({"messages": [{"role": "user", "content": None}]}, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": "x"}] * 513}, "messages"),
    ({"frequency_penalty": 2.5}, "frequency_penalty"), ({"presence_penalty": "much"}, "presence_penalty"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}}, "response_format"),
    ({"response_format": shaped({"enum": ["x" * 70_000]})}, "response_format"),
    ({"response_format": shaped(nested(400))}, "response_format"),
    ({"model": None}, "model"), ({"model": 7}, "model"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=[str(f)[:40] for f, _ in REFUSED])
async def test_what_cannot_be_done_is_a_clear_400(engine, token, fields, param):
    response = await asked(token, **fields)
    assert response.status_code == 400
    error = error_of(response)
    assert error["param"].startswith(param)
    assert len(response.content) < 1000
    assert (error["code"], error["type"]) == ("invalid_request", "invalid_request_error")


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "null", '{"model": NaN}', "[" * 100_000, '{"model": "base", "messages": 1e999}']
)
async def test_a_body_that_is_no_request_is_a_400(engine, token, body):
    response = await call(token, body=body)
    assert response.status_code == 400
    assert error_of(response)["code"] == "invalid_request"


async def test_a_body_that_is_no_utf8_is_a_400(engine, token):
    body = b'{"model": "base", "messages": [{"role": "user", "content": "\xff\xfe"}]}'
    headers = {"Authorization": f"Bearer {token}"}
    url = "/v1/chat/completions"
    response = await AsyncClient().post(url, body, content_type="application/json", headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_request")


async def test_a_body_of_more_than_four_megabytes_is_refused_in_shape(engine, token):
    response = await call(token, body='{"model": "' + "x" * 5_000_000 + '"}')
    assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("path", ["nothing", "chat", "chat/completions/", "models/a/b/"])
async def test_an_unknown_address_is_a_404_in_shape(db, token, path):
    response = await call(token, path)
    assert response.status_code == 404
    assert error_of(response)["request_id"] == response.headers["X-Request-ID"]


async def test_a_wrong_verb_is_a_405_in_shape(db, token):
    response = await call(token, "chat/completions")
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")
    assert (error_of(response)["code"], "GET" in error_of(response)["message"]) == ("method_not_allowed", True)


@pytest.mark.parametrize("header", ["X-Request-ID", "X-Client-Request-Id"])
async def test_a_clients_own_request_id_comes_back(db, token, header):
    good = await call(token, "models", **{header: "job-7:row.12"})
    bad = await call(token, "models", **{header: "<script>"})
    assert good.headers["X-Request-ID"] == "job-7:row.12" and bad.headers["X-Request-ID"].startswith("rq_")


async def test_an_unknown_model_is_404_with_the_nearest_names(engine, token, team, other_team):
    await sync_to_async(adapter_of)(team, "question-type", 7)
    await sync_to_async(adapter_of)(other_team, "question-types", 1)
    response = await asked(token, model="question-typ@7")
    assert response.status_code == 404
    error = error_of(response)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "question-type@7" in error["message"] and "question-types" not in error["message"]


async def test_another_teams_model_and_collection_are_404(engine, token, other_team):
    await sync_to_async(adapter_of)(other_team, "theirs", 1)
    await Collection.objects.acreate(team=other_team, name="theirs")
    assert (await asked(token, model="theirs@1")).status_code == 404
    response = await asked(token, collection="theirs")
    assert (response.status_code, error_of(response)["code"]) == (404, "collection_not_found")


async def test_a_full_queue_is_429_with_retry_after(engine, token, team, monkeypatch):
    submit = stream.asubmit
    monkeypatch.setattr("webapp.api.answers.stream.asubmit", lambda requests: submit(requests, team_limit=2))
    await submit([stream.GenerateRequest(team_id=team.pk, base="tiny", messages=HELLO) for _ in range(2)])
    response = await asked(token)
    assert (response.status_code, response.headers["Retry-After"]) == (429, "5")
    assert error_of(response)["code"] == "queue_full"


async def test_an_answer_tells_what_is_left_of_the_teams_queue(engine, token):
    with Answering(engine, echo):
        response = await asked(token, n=3)
    assert response.headers["X-RateLimit-Limit-Requests"] == "400"
    assert response.headers["X-RateLimit-Remaining-Requests"] == "397"
    assert response.headers["X-RateLimit-Reset-Requests"] == "0s"


async def test_no_engine_is_503_with_retry_after(redis_url, token):
    response = await asked(token)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "20")
    assert error_of(response)["code"] == "engine_starting"


async def test_a_late_answer_is_a_503_that_may_be_tried_again(engine, token):
    """It was a 400, which clients do not repeat."""

    def give_up(responder: Responder, request: Any) -> None:
        responder.fail(request, UnavailableError("The answer was not finished in time.", code="deadline"))

    with Answering(engine, give_up):
        response = await asked(token, deadline_s=2)
    assert (response.status_code, error_of(response)["code"]) == (503, "deadline")
    assert error_of(response)["type"] == "server_error" and response.headers["Retry-After"]


async def test_no_redis_is_503(token):
    assert (await asked(token)).status_code == 503


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer nobody", "Basic abc", "Bearer ' OR 1=1 --"])
async def test_a_wrong_token_is_401(engine, token, header):
    response = await call(token, "models", Authorization=header)
    assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
    assert response.headers["X-Request-ID"] == error_of(response)["request_id"]


async def test_the_token_of_a_closed_account_is_worth_nothing(engine, token, member):
    member.is_active = False
    await member.asave()
    assert (await call(token, "models")).status_code == 401


async def test_a_token_in_the_query_is_none(engine, token):
    response = await AsyncClient().get("/v1/models", {"token": token, "api_key": token})
    assert response.status_code == 401


async def test_a_viewers_token_may_ask_but_not_train(engine, team, viewer):
    _, token = await sync_to_async(token_create)(team=team, user=viewer, name="v", role=Role.VIEWER)
    with Answering(engine, echo):
        assert (await asked(token)).status_code == 200
    assert (await call(token, "runs", {})).status_code == 403


async def test_models_lists_the_names_of_the_team_and_nobody_elses(engine, token, team, other_team):
    await sync_to_async(adapter_of)(team, "triage", 1)
    await sync_to_async(adapter_of)(other_team, "theirs", 1)
    response = await call(token, "models")
    assert response.headers["X-Request-ID"].startswith("rq_")
    body = json.loads(response.content)
    assert [m["id"] for m in body["data"]] == ["base", "triage", "triage@1"]
    assert json.loads((await call(token, "models/triage")).content)["coldframe"]["resolved"] == "triage@1"
    assert (await call(token, "models/theirs")).status_code == 404


async def test_embeddings_as_floats_and_as_base64_are_the_same(engine, token):
    with Answering(engine, echo):
        floats = await call(token, "embeddings", {"model": "minilm", "input": ["one", "three"]})
        packed = await call(token, "embeddings", {"model": "minilm", "input": "one", "encoding_format": "base64"})
    vectors = [d["embedding"] for d in json.loads(floats.content)["data"]]
    assert vectors == [[3.0, 111.0, 0.5], [5.0, 116.0, 0.5]]
    encoded = json.loads(packed.content)["data"][0]["embedding"]
    assert list(struct.unpack("<3f", base64.b64decode(encoded))) == vectors[0]


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"input": []}, 400), ({"input": ""}, 400), ({"input": [1, 2]}, 400), ({"input": ["a"] * 257}, 400),
     ({"input": {"a": 1}}, 400), ({"input": "\ud800"}, 400), ({"model": "ada"}, 404), ({"encoding_format": "hex"}, 400),
     ({"surprise": 1}, 400)],
)  # fmt: skip
async def test_embeddings_of_anything_else_are_refused(engine, token, fields, status):
    response = await call(token, "embeddings", {"model": "minilm", "input": "a"} | fields)
    assert response.status_code == status
    assert error_of(response)["request_id"].startswith("rq_")


async def test_the_description_is_public_and_names_every_route(db):
    body = json.loads((await AsyncClient().get("/v1/openapi.json")).content)
    assert set(body["paths"]) >= {"/v1/models", "/v1/models/{name}", "/v1/chat/completions", "/v1/embeddings"}
    names = [operation["operationId"] for path in body["paths"].values() for operation in path.values()]
    assert len(set(names)) == len(names)
