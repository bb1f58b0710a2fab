"""OpenAI's own client, unchanged, against a really running server; the engine is played by a second process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from jobs import stream_redis
from jobs.embedded import free_port
from jobs.stream import ENGINES
from tests.webapp.responder import NAME

ROOT = Path(__file__).parents[2]
WORDS = "Both owners hold it, {question} they said."
SAID = "Both owners hold it, Whose tree? they said."


def _wait(is_there: object, *processes: subprocess.Popen[bytes], what: str) -> None:
    deadline = time.monotonic() + 90
    while not is_there():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"{what} did not come up"
        assert all(p.poll() is None for p in processes), f"{what}: a process has ended"
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/openapi.json", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def server(redis_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(address, token) of a uvicorn with a database of its own."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environ = {
        **os.environ, "COLDFRAME_VAR": str(tmp_path_factory.mktemp("var")), "REDIS_URL": redis_address,
        "DJANGO_SETTINGS_MODULE": "webapp.settings", "DATABASE_URL": "",
    }  # fmt: skip
    setup = (
        "from django.contrib.auth.models import User; from webapp.models import Membership, Team; "
        "m = Membership.objects.create(team=Team.objects.create(slug='t', name='T'), role='admin', "
        "user=User.objects.create_user('u', password='a-long-password-1'))"
    )
    for command in (["migrate", "-v0"], ["shell", "-v0", "-c", setup]):
        subprocess.run([sys.executable, "manage.py", *command], cwd=ROOT, env=environ, check=True)
    command = [sys.executable, "manage.py", "create_token", "--team", "t", "--name", "probe"]
    made = subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True, text=True)
    serve = [sys.executable, "-m", "uvicorn", "webapp.asgi:application", "--port", str(port), "--log-level", "warning"]
    play = [sys.executable, "-m", "tests.webapp.responder", redis_address, "--pause", "0.01", "--words", WORDS]
    processes = [subprocess.Popen(command, cwd=ROOT, env=environ) for command in (serve, play)]
    stream_redis.configure(redis_address)
    try:
        _wait(lambda: _answers(url), *processes, what="the web server")
        _wait(lambda: stream_redis.client().zscore(ENGINES, NAME), *processes, what="the scripted engine")
        yield url, made.stdout.strip()
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=20)
        stream_redis.configure("")


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


def _is_cancelled(request_id: str) -> bool:
    return bool(stream_redis.client().exists(f"cf:cancel:{request_id}"))


def test_closing_a_stream_early_stops_the_row(client):
    parts = client.chat.completions.create(**ASK, stream=True)
    request_id = next(iter(parts)).id.removeprefix("chatcmpl-")
    parts.close()
    _wait(lambda: _is_cancelled(request_id), what="the cancellation")


def test_hanging_up_on_a_whole_answer_stops_the_row(client):
    before = set(stream_redis.client().scan_iter("cf:cancel:*"))
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2).chat.completions.create(
            **ASK | {"messages": [{"role": "user", "content": "word " * 2000}]}
        )
    _wait(lambda: set(stream_redis.client().scan_iter("cf:cancel:*")) - before, what="the cancellation")
