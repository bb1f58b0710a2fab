"""OpenAI's own client against a running server and a real engine of a tiny model: what only the two together show."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from selectolax.lexbor import LexborHTMLParser as HTMLParser

from ml.data.chat import prompt_ids
from tests.jobs.redis_fixture import RedisChild
from tests.ml.conftest import save_tiny_llama
from tests.ml.tiny import tiny_tokenizer
from tests.webapp.api_server import running

LENGTH = 512
"""Of the engine's slots: tests/jobs/engine_child.py."""
ASK = {"model": "base", "messages": [{"role": "user", "content": "Tell me about the sky."}], "max_tokens": 12}
SHAPE = {
    "type": "object", "required": ["colour", "n"], "additionalProperties": False,
    "properties": {"colour": {"enum": ["red", "blue"]}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
}  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("api")
    save_tiny_llama(folder / "models" / "tiny-llama")
    redis = RedisChild(folder)
    engine = ("tests.jobs.engine_child", redis.url, str(folder / "models"), str(folder))
    settings = {"BASE_MODEL": "tiny-llama", "ENGINE_LENGTH": str(LENGTH)}
    with running(redis.url, folder / "var", *engine, **settings) as (url, token):
        yield openai.OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0, timeout=120)
    redis.stop()


@pytest.fixture(scope="module")
def snippets(client: openai.OpenAI) -> dict[str, str]:
    """The API page's examples by their ids, as its copy buttons give them."""
    url = str(client.base_url).removesuffix("/v1/")
    with httpx.Client(base_url=url, follow_redirects=True, headers={"Referer": url}) as browser:
        form = HTMLParser(browser.get("/accounts/login/").text).css_first("input[name=csrfmiddlewaretoken]")
        fields = {"login": "u", "password": "a-long-password-1", "csrfmiddlewaretoken": form.attributes["value"]}
        assert browser.post("/accounts/login/", data=fields).status_code == 200
        page = HTMLParser(browser.get("/chat/api/").text)
    return {node.attributes["id"]: node.text() for node in page.css(".cf-snippet pre[id]")}


def test_the_pages_python_examples_run_as_they_stand(
    client: openai.OpenAI, snippets: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the vectors, for which this engine has no model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLDFRAME_URL", str(client.base_url).removesuffix("/v1/"))
    monkeypatch.setenv("COLDFRAME_TOKEN", client.api_key)
    code = [snippets[name] for name in ("ask1c", "ask2c", "label1c", "shape0c", "batch0c", "batch1c")]
    found: dict[str, Any] = {}
    for text in code:
        exec(compile(text, "the API page", "exec"), found)
    assert json.loads(found["answer"].choices[0].message.content)["urgency"] in range(1, 6)
    assert found["batch"].status == "validating" and (tmp_path / "requests.jsonl").is_file()


@pytest.mark.parametrize("name", ["ask0c", "label0c", "shape1c"])
def test_the_pages_curl_examples_run_as_they_stand(client: openai.OpenAI, snippets: dict[str, str], name: str) -> None:
    env = {**os.environ, "COLDFRAME_URL": str(client.base_url).removesuffix("/v1/"), "COLDFRAME_TOKEN": client.api_key}
    done = subprocess.run(["bash", "-c", snippets[name]], env=env, capture_output=True, text=True, check=True)
    assert '"choices"' in done.stdout and '"error"' not in done.stdout


def n_prompt(text: str) -> int:
    return len(prompt_ids(tiny_tokenizer(), [{"role": "user", "content": text}]))


def test_several_answers_differ_and_are_the_same_again_with_the_same_seed(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ASK, n=4, temperature=1.0, seed=5)
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) == 4 and answer.usage.completion_tokens == 48
    assert answer.usage.prompt_tokens == n_prompt("Tell me about the sky.")
    assert len(answer.model_extra["coldframe"]["answers"]) == 4
    again = client.chat.completions.create(**ASK, n=4, temperature=1.0, seed=5)
    assert [choice.message.content for choice in again.choices] == texts


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_satisfies_the_schema_that_was_sent(client: openai.OpenAI, stream: bool) -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "c", "strict": True, "schema": SHAPE}}
    asked = {**ASK, "max_tokens": 60, "response_format": shape, "temperature": 1.2}
    if stream:
        text = "".join(
            part.choices[0].delta.content or "" for part in client.chat.completions.create(**asked, stream=True)
        )
    else:
        text = client.chat.completions.create(**asked).choices[0].message.content
    answer = json.loads(text)
    assert answer["colour"] in ("red", "blue") and 0 <= answer["n"] <= 99


def test_a_schema_that_cannot_be_kept_is_a_400_that_says_why(client: openai.OpenAI) -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "c", "schema": {"type": "array", "uniqueItems": True}}}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="uniqueItems") as caught:
            client.chat.completions.create(**ASK, response_format=shape, stream=stream)
        assert caught.value.param == "response_format"


def test_log_probabilities_add_up_to_the_text(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ASK, logprobs=True, top_logprobs=3, temperature=0)
    told = answer.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in told).decode(errors="replace") == answer.choices[0].message.content
    assert all(token.logprob == token.top_logprobs[0].logprob and len(token.top_logprobs) == 3 for token in told)


def test_a_text_is_continued_with_its_own_tokens_counted(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="base", prompt=["The sky", "The sky is"], max_tokens=6, logprobs=1)
    counts = [len(tiny_tokenizer()(text)["input_ids"]) for text in ("The sky", "The sky is")]
    assert answer.usage.prompt_tokens == sum(counts) and answer.usage.completion_tokens == 12
    assert len(answer.choices[1].logprobs.tokens) == 6 and answer.choices[0].finish_reason == "length"


def test_what_a_second_request_copies_is_told_as_cached(client: openai.OpenAI) -> None:
    """Beginnings of prompts that come again are kept by the engine; it tells how many tokens it copied."""
    asked = {**ASK, "messages": [{"role": "system", "content": "Answer with the colour. " * 12}, *ASK["messages"]]}
    cached = [client.chat.completions.create(**asked).usage.prompt_tokens_details.cached_tokens for _ in range(4)]
    assert cached[0] == 0 and cached[-1] > 0


def test_a_prompt_exactly_at_the_limit_is_answered_and_one_token_more_is_refused(client: openai.OpenAI) -> None:
    text = "sky " * 60
    room = LENGTH - n_prompt(text)
    asked = {**ASK, "messages": [{"role": "user", "content": text}], "stop": None}
    answer = client.chat.completions.create(**{**asked, "max_tokens": room})
    assert answer.usage.total_tokens <= LENGTH
    with pytest.raises(openai.BadRequestError, match=f"{LENGTH + 1} in all, and {LENGTH} fit") as caught:
        client.chat.completions.create(**{**asked, "max_tokens": room + 1})
    assert caught.value.code == "context_length_exceeded"


def test_an_answer_is_chosen_among_those_that_were_sent(client: openai.OpenAI) -> None:
    choices = ["red", "deep blue", "green"]
    answer = client.chat.completions.create(**ASK, extra_body={"choices": choices})
    scores = answer.model_extra["coldframe"]["scores"]
    assert set(scores) == set(choices) and sum(scores.values()) == pytest.approx(1, abs=0.001)
    assert answer.choices[0].message.content == max(scores, key=lambda choice: scores[choice])
    assert answer.usage.completion_tokens == 0


def test_a_penalty_on_what_was_said_makes_an_answer_say_less_twice(client: openai.OpenAI) -> None:
    def n_distinct(**fields: float) -> int:
        answer = client.chat.completions.create(
            **{**ASK, "max_tokens": 60}, temperature=0, logprobs=True, extra_body={"repetition_penalty": 1}, **fields
        )
        return len({token.token for token in answer.choices[0].logprobs.content})

    assert n_distinct(frequency_penalty=2) > n_distinct()
