"""OpenAI's own client, unchanged, against a really running server; the engine is played by a second process."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from jobs import stream_redis
from tests.webapp.api_server import running, wait_for

WORDS = "Both owners hold it, {question} they said."
SAID = "Both owners hold it, Whose tree? they said."


@pytest.fixture(scope="module")
def server(redis_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(address, token)"""
    play = ("tests.webapp.responder", redis_address, "--pause", "0.01", "--words", WORDS)
    with running(redis_address, tmp_path_factory.mktemp("var"), *play) as found:
        yield found


@pytest.fixture
def client(server: tuple[str, str]) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server[0]}/v1", api_key=server[1], max_retries=0, timeout=60)


ASK = {"model": "base", "messages": [{"role": "user", "content": "Whose tree?"}]}


def test_create_token_prints_the_token_and_nothing_else(server):
    assert server[1].startswith("cf-") and len(server[1].split()) == 1


def test_a_completion(client):
    answer = client.chat.completions.create(**ASK, temperature=0, max_tokens=50)
    assert answer.choices[0].message.content == SAID
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_completion_with_usage(client):
    parts = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    assert "".join(p.choices[0].delta.content or "" for p in parts if p.choices) == SAID
    assert parts[-1].usage.completion_tokens == 15
    assert parts[-2].choices[0].finish_reason == "stop"


def test_embeddings_as_the_client_asks_for_them_by_default(client):
    found = client.embeddings.create(model="minilm", input=["a tree", "line"])
    assert [d.embedding for d in found.data] == [[6.0, 97.0, 0.5], [4.0, 108.0, 0.5]]


def test_models_are_listed_and_one_is_retrieved(client):
    assert [m.id for m in client.models.list()] == ["base"]
    assert client.models.retrieve("base").owned_by == "t"


def test_errors_arrive_as_the_clients_own_exceptions(client):
    with pytest.raises(openai.NotFoundError, match="Did you mean base") as unknown:
        client.chat.completions.create(**ASK | {"model": "bas"})
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert unknown.value.request_id.startswith("rq_")
    with pytest.raises(openai.BadRequestError, match="Tools are not supported"):
        client.chat.completions.create(**ASK, tools=[])
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="cf-wrong").models.list()


def test_files_and_batches(client):
    """The scripted engine has no worker beside it: the batch waits, and is stopped while it does."""
    line = b'{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "minilm", "input": "a"}}'
    file = client.files.create(file=("rows.jsonl", line), purpose="batch")
    assert client.files.content(file.id).read() == line and client.files.retrieve(file.id).bytes == len(line)
    assert [one.id for one in client.files.list(purpose="batch")] == [file.id]
    made = [
        client.batches.create(
            input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h", metadata={"n": str(n)}
        )
        for n in range(3)
    ]
    assert [one.id for one in client.batches.list(limit=1)] == [one.id for one in reversed(made)], "pages go on"
    assert client.batches.retrieve(made[0].id).metadata == {"n": "0"}
    assert {client.batches.cancel(one.id).status for one in made} == {"cancelled"}
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(made[0].id)
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)


def test_texts_and_answers_one_by_one(client):
    answer = client.completions.create(model="base", prompt="Whose tree?", n=2)
    assert [choice.text for choice in answer.choices] == [SAID, SAID]
    texts = ["", ""]
    for part in client.chat.completions.create(**ASK, n=2, stream=True, logprobs=True):
        for choice in part.choices:
            texts[choice.index] += choice.delta.content or ""
            assert choice.logprobs is None or choice.logprobs.content
    assert texts == [SAID, SAID]


def test_a_clients_own_request_id_and_what_is_left_of_its_queue(client):
    raw = client.chat.completions.with_raw_response.create(**ASK, extra_headers={"X-Request-ID": "mine-1"})
    assert raw.headers["x-request-id"] == "mine-1"
    assert int(raw.headers["x-ratelimit-remaining-requests"]) < int(raw.headers["x-ratelimit-limit-requests"])


def _is_cancelled(request_id: str) -> bool:
    return bool(stream_redis.client().exists(f"cf:cancel:{request_id}"))


def test_closing_a_stream_early_stops_the_row(client):
    parts = client.chat.completions.create(**ASK, stream=True)
    request_id = next(iter(parts)).id.removeprefix("chatcmpl-")
    parts.close()
    wait_for(lambda: _is_cancelled(request_id), what="the cancellation")


def test_hanging_up_on_a_whole_answer_stops_the_row(client):
    """The answer takes half a minute; five seconds are enough for the request to be taken on a busy machine."""
    before = set(stream_redis.client().scan_iter("cf:cancel:*"))
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=5).chat.completions.create(
            **ASK | {"messages": [{"role": "user", "content": "word " * 2000}]}
        )
    wait_for(lambda: set(stream_redis.client().scan_iter("cf:cancel:*")) - before, what="the cancellation")
