"""What an answer of the API holds beside its text: several answers, log-probabilities, usage, texts, shapes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from tests.webapp.api_client import Answering, asked, call, error_of
from tests.webapp.responder import Responder
from tests.webapp.test_targets import adapter_of, move
from webapp.models import Prompt, PromptVersion, Team

pytestmark = pytest.mark.django_db(transaction=True)


def prompt_of(team: Team, name: str, **fields: Any) -> None:
    prompt = Prompt.objects.create(team=team, name=name)
    PromptVersion.objects.create(team=team, prompt=prompt, number=1, **fields)


class Seen:
    """Answers every request with its seed, and remembers what was asked."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def __call__(self, responder: Responder, request: Any) -> None:
        self.requests.append(request)
        responder.answer(request, f"It is {request.seed}.")


def body_of(response: Any) -> dict[str, Any]:
    assert response.status_code == 200, response.content
    return json.loads(response.content)


async def lines_of(response: Any) -> list[dict[str, Any]]:
    lines = [part.decode() async for part in response.streaming_content]
    assert lines[-1] == "data: [DONE]\n\n"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_n_answers_are_rows_of_one_group_with_seeds_of_their_own(engine, token):
    seen = Seen()
    with Answering(engine, seen):
        body = body_of(await asked(token, n=3, seed=7))
        again = body_of(await asked(token, n=3, seed=7))
    texts = [choice["message"]["content"] for choice in body["choices"]]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert texts[0] == "It is 7." and len(set(texts)) == 3
    assert texts == [choice["message"]["content"] for choice in again["choices"]]
    assert len({request.group for request in seen.requests[:3]}) == 1 and seen.requests[0].group
    assert body["usage"]["completion_tokens"] == 9 and body["usage"]["prompt_tokens"] == 30
    assert [answer["index"] for answer in body["coldframe"]["answers"]] == [0, 1, 2]


async def test_streamed_answers_tell_which_of_them_each_chunk_belongs_to(engine, token):
    with Answering(engine, Seen()):
        found = await lines_of(await asked(token, n=2, seed=7, stream=True, stream_options={"include_usage": True}))
    texts = ["", ""]
    for chunk in found[:-1]:
        assert chunk["usage"] is None
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
    assert texts[0] == "It is 7." != texts[1]
    ends = [c["index"] for chunk in found for c in chunk["choices"] if c["finish_reason"]]
    assert sorted(ends) == [0, 1] and found[-1]["usage"]["completion_tokens"] == 6


async def test_when_one_of_several_answers_fails_the_others_are_stopped(engine, token):
    from ml.errors import ContextTooLongError

    requests: list[Any] = []

    def one_fails(responder: Responder, request: Any) -> None:
        requests.append(request)
        if len(requests) == 1:
            responder.fail(request, ContextTooLongError("Too long."))

    with Answering(engine, one_fails):
        response = await asked(token, n=2)
    assert (response.status_code, error_of(response)["code"]) == (400, "context_length_exceeded")
    assert engine.is_cancelled(requests[1])


async def test_log_probabilities_have_openais_shape(engine, token):
    with Answering(engine, Seen()):
        body = body_of(await asked(token, logprobs=True, top_logprobs=2))
        bare = body_of(await asked(token, logprobs=True))
        none = body_of(await asked(token))
    content = body["choices"][0]["logprobs"]["content"]
    assert [token["token"] for token in content] == ["It", " is", " None."]
    assert set(content[0]) == {"token", "logprob", "bytes", "top_logprobs"} and content[0]["bytes"] == [73, 116]
    assert len(content[0]["top_logprobs"]) == 2
    assert bare["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    assert none["choices"][0]["logprobs"] is None


async def test_log_probabilities_of_a_stream_come_with_the_text_they_became(engine, token):
    """The first half of a character is held back; tokens of a stop string are not told at all."""

    def halves(responder: Responder, request: Any) -> None:
        responder.start(request)
        responder.say(request, "", token="\ufffd")
        responder.say(request, "é", token="\ufffd")
        responder.say(request, "", token="STOP")
        responder.finish(request)

    with Answering(engine, halves):
        found = await lines_of(await asked(token, logprobs=True, stream=True))
    told = [c for chunk in found for c in chunk["choices"] if c["logprobs"]]
    assert [c["delta"]["content"] for c in told] == ["é"]
    assert [token["token"] for token in told[0]["logprobs"]["content"]] == ["\ufffd", "\ufffd"]


async def test_cached_tokens_are_those_that_the_engine_copied(engine, token):
    """They were told to be the adapter's prefix, which is no part of the prompt."""

    def copied(responder: Responder, request: Any) -> None:
        responder.start(request, prefix_tokens=20, cached_tokens=12)
        responder.finish(request)

    with Answering(engine, copied):
        body = body_of(await asked(token))
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 12}
    assert body["coldframe"]["prefix_tokens"] == 20


SETTINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"repetition_penalty": 1.1, "top_k": 0, "schema": "", "deadline_s": 600, "n_logprobs": 0}),
    ({"top_k": 5, "deadline_s": 9}, {"top_k": 5, "deadline_s": 9}),
    ({"frequency_penalty": 0.5}, {"frequency_penalty": 0.5, "repetition_penalty": 1.0}),
    ({"presence_penalty": -1, "repetition_penalty": 1.2}, {"presence_penalty": -1.0, "repetition_penalty": 1.2}),
    ({"response_format": {"type": "text"}}, {"schema": ""}),
    ({"response_format": {"type": "json_object"}}, {"schema": '{"type": "object"}', "repetition_penalty": 1.0}),
    (
        {"response_format": {"type": "json_schema", "json_schema": {
            "name": "n", "strict": True, "schema": {"type": "integer"}}}},
        {"schema": '{"type": "integer"}'},
    ),
    ({"logprobs": True}, {"n_logprobs": 1}), ({"logprobs": True, "top_logprobs": 7}, {"n_logprobs": 7}),
    ({"max_tokens": 9, "stop": "END", "temperature": 0}, {"max_tokens": 9, "stop": ["END"], "temperature": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "expected"), SETTINGS, ids=[str(f)[:50] for f, _ in SETTINGS])
async def test_every_setting_reaches_the_engine(engine, token, fields, expected):
    seen = Seen()
    with Answering(engine, seen):
        body_of(await asked(token, **fields))
    assert {name: getattr(seen.requests[0], name) for name in expected} == expected


async def test_a_label_has_no_tokens_to_tell_or_to_shape(engine, token, team):
    await sync_to_async(adapter_of)(team, "topic", 1, form="head")
    for fields in ({"logprobs": True}, {"response_format": {"type": "json_object"}}):
        response = await asked(token, model="topic", **fields)
        assert (response.status_code, "one of its labels" in error_of(response)["message"]) == (400, True)


async def test_texts_that_vote_are_one_answer(engine, token, team):
    await sync_to_async(prompt_of)(team, "voting", n_samples=5, rule={"kind": "last_line"})
    for fields in ({"n": 2}, {"logprobs": True}):
        response = await asked(token, model="voting", **fields)
        assert (response.status_code, error_of(response)["param"]) == (400, next(iter(fields)))


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_chosen_and_the_others_chances_told(engine, token, stream):
    def choose(responder: Responder, request: Any) -> None:
        responder.start(request)
        responder.say(request, request.choices[1])
        responder.finish(request, n_tokens=0, scores=[-3.0, -1.0])

    with Answering(engine, choose):
        response = await asked(token, choices=["red", "blue"], stream=stream)
        told = (await lines_of(response))[-1] if stream else body_of(response)
    assert told["coldframe"]["scores"] == {"blue": 0.8808, "red": 0.1192}
    if not stream:
        assert told["choices"][0]["message"]["content"] == "blue"


NOT_CHOSEN: list[tuple[dict[str, Any], str]] = [
    ({"choices": []}, "choices"), ({"choices": ["a"]}, "choices"), ({"choices": ["a", "a"]}, "choices"),
    ({"choices": ["a", " "]}, "choices"), ({"choices": [str(n) for n in range(257)]}, "choices"),
    ({"choices": ["a", "b" * 1001]}, "choices"), ({"choices": ["a", "b"], "n": 2}, "n"),
    ({"choices": ["a", "b"], "logprobs": True}, "logprobs"),
    ({"choices": ["a", "b"], "response_format": {"type": "json_object"}}, "response_format"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), NOT_CHOSEN, ids=[str(f)[:40] for f, _ in NOT_CHOSEN])
async def test_choices_that_cannot_be_made_are_a_clear_400(engine, token, fields, param):
    response = await asked(token, **fields)
    assert (response.status_code, error_of(response)["param"]) == (400, param)


# Texts


async def completed(token: str, **fields: Any) -> Any:
    return await call(token, "completions", {"model": "base", "prompt": "Once upon"} | fields)


async def test_texts_are_continued_as_they_stand_several_in_one_batch(engine, token):
    seen = Seen()
    with Answering(engine, seen):
        body = body_of(await completed(token, prompt=["One", "Two"], n=2, seed=3, echo=True))
    assert body["object"] == "text_completion" and body["id"].startswith("cmpl-")
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert [choice["text"][:9] for choice in body["choices"]] == ["OneIt is ", "OneIt is ", "TwoIt is ", "TwoIt is "]
    assert [request.text for request in seen.requests] == ["One", "One", "Two", "Two"]
    assert all(request.messages == [] for request in seen.requests)
    assert body["usage"]["prompt_tokens"] == 60 and body["usage"]["completion_tokens"] == 12


async def test_log_probabilities_of_a_text_have_the_older_shape(engine, token):
    with Answering(engine, Seen()):
        body = body_of(await completed(token, logprobs=2))
    told = body["choices"][0]["logprobs"]
    assert told["tokens"] == ["It", " is", " None."] and told["text_offset"] == [0, 2, 5]
    assert told["token_logprobs"] == [-0.25] * 3 and set(told["top_logprobs"][0]) == {"It", "It1"}


async def test_a_streamed_text_ends_in_its_reason_and_usage(engine, token):
    with Answering(engine, Seen()):
        found = await lines_of(await completed(token, stream=True, echo=True, stream_options={"include_usage": True}))
    assert "".join(c["text"] for chunk in found for c in chunk["choices"]) == "Once uponIt is None."
    assert {chunk["object"] for chunk in found} == {"text_completion"}
    assert found[-2]["choices"][0]["finish_reason"] == "stop" and found[-1]["usage"]["total_tokens"] == 33


async def test_an_adapter_continues_a_text_without_its_data_sets_frame(engine, token, team):
    await sync_to_async(adapter_of)(team, "triage", 1)
    seen = Seen()
    with Answering(engine, seen):
        body = body_of(await completed(token, model="triage"))
    assert body["model"] == "triage@1" and seen.requests[0].artifact and seen.requests[0].text == "Once upon"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "prompt"), ({"prompt": []}, "prompt"), ({"prompt": [1, 2]}, "prompt"),
    ({"prompt": ["a", ""]}, "prompt"), ({"prompt": ["a"] * 33}, "prompt"), ({"prompt": ["a"] * 8, "n": 8}, "n"),
    ({"prompt": "\ud800"}, "prompt"), ({"suffix": "x"}, "suffix"), ({"best_of": 3}, "best_of"),
    ({"logprobs": 6}, "logprobs"), ({"logprobs": True}, "logprobs"), ({"logprobs": 1, "echo": True}, "echo"),
    ({"n": 9}, "n"), ({"max_tokens": 10**9}, "max_tokens"), ({"tools": []}, "tools"), ({"messages": []}, "messages"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=[str(f)[:40] for f, _ in REFUSED])
async def test_a_text_that_cannot_be_continued_is_a_clear_400(engine, token, fields, param):
    response = await completed(token, **fields)
    assert response.status_code == 400
    assert error_of(response)["param"].startswith(param)


async def test_a_prompt_of_the_library_is_sent_to_the_chat_endpoint(engine, token, team):
    await sync_to_async(prompt_of)(team, "reply")
    response = await completed(token, model="reply")
    assert (response.status_code, "/v1/chat/completions" in error_of(response)["message"]) == (400, True)


async def test_each_name_tells_what_it_stands_for(engine, token, team, settings):
    measured = {"test": {"accuracy": 0.9, "n_rows": 50}}
    adapter = await sync_to_async(adapter_of)(team, "triage", 1, 2, size_bytes=46_000, metrics=measured)
    await sync_to_async(move)(adapter, "production", 1)
    await sync_to_async(prompt_of)(team, "reply", technique="few_shot")
    told = {one["id"]: one["coldframe"] for one in body_of(await call(token, "models"))["data"]}
    assert told["base"]["kind"] == "base" and told["base"]["base"] == settings.BASE_MODEL
    assert told["triage"]["resolved"] == told["triage@production"]["resolved"] == "triage@1"
    assert told["triage@2"] | {"kind": "adapter", "bytes": 46_000, "form": "lora_delta"} == told["triage@2"]
    assert told["triage"]["test"] == measured["test"] and told["triage"]["served"]
    assert told["prompt:reply"]["kind"] == "prompt" and told["prompt:reply"]["resolved"] == "prompt:reply@1"
    one = body_of(await call(token, "models/triage@production"))
    assert one["id"] == "triage@production" and one["coldframe"] == told["triage@production"]


async def test_passages_of_a_collection_are_found_by_name(engine, token, team, other_team, monkeypatch):
    from jobs import stream
    from webapp.models import Collection

    asked_for: list[dict[str, Any]] = []

    async def found(kind: str, payload: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        asked_for.append(payload)
        return {"hits": [{"n": 1, "title": "a.md", "page": 2, "start": 0, "end": 4, "score": 0.5, "text": "tree"}]}

    monkeypatch.setattr(stream, "acall_service", found)
    law = await Collection.objects.acreate(team=team, name="law")
    await Collection.objects.acreate(team=other_team, name="theirs")
    body = body_of(await call(token, "collections/law/search", {"query": "a tree", "top_k": 3}))
    assert body["data"][0]["title"] == "a.md" and body["data"][0]["score"] == 0.5
    assert asked_for == [{"team_id": team.pk, "collection_id": law.pk, "query": "a tree", "k": 3}]
    assert body_of(await call(token, "collections/law/search", {"query": " "}))["data"] == []
    for name, fields, status in [("theirs", {}, 404), ("law", {"top_k": 51}, 400), ("law", {"surprise": 1}, 400)]:
        response = await call(token, f"collections/{name}/search", {"query": "x"} | fields)
        assert response.status_code == status and error_of(response)


async def test_a_run_is_stopped_once(engine, token, team, redis_url):
    from webapp.models import Run

    run = await Run.objects.acreate(team=team, kind=Run.Kind.TRAIN, title="ada")
    assert body_of(await call(token, f"runs/{run.pk}/cancel", {}))["state"] == "cancelled"
    again = await call(token, f"runs/{run.pk}/cancel", {})
    assert (again.status_code, error_of(again)["code"]) == (409, "too_late")
