"""The editor's looks at a draft: preview with its cost, examples to start from, answers on three rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core import signing
from django.test import AsyncClient, Client
from django.urls import reverse

from jobs import stream
from tests.webapp.prompt_data import TEST, TRAIN, VALIDATION, stored
from tests.webapp.responder import Responder
from webapp.models import DatasetVersion, Prompt, PromptVersion, Team
from webapp.selectors import prompt_trial
from webapp.services.prompts import prompt_create
from webapp.views.prompt_try import SALT, _shown

SignIn = Callable[[Any], Client]
TYPED = {"technique": "zero_shot", "system": "", "template": "Q: {question}"}


@pytest.fixture
def data(team: Team) -> DatasetVersion:
    return stored(team)


def post(client: Client, name: str, **typed: Any) -> str:
    return client.post(reverse(f"prompts:{name}"), {**TYPED, **typed}).content.decode()


def test_the_preview_guesses_tokens_where_no_engine_counts_and_says_so(client_of: SignIn, member: Any) -> None:
    page = post(client_of(member), "preview", sample="Why?")
    assert "about" in page and "no engine is there to count" in page and "Q: Why?" in page


def test_the_preview_counts_tokens_with_an_engine(
    client_of: SignIn, member: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(kind: str, payload: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        assert kind == "count_tokens"
        return {"tokens": 10 * len(payload["messages"]), "limit": 512}

    monkeypatch.setattr(stream, "engines", lambda: [{"id": "e", "base": settings.BASE_MODEL, "state": "ready"}])
    monkeypatch.setattr(stream, "call_service", count)
    page = post(client_of(member), "preview", technique="few_shot", example_question=["a"], example_answer=["b"])
    assert "30 tokens a request" in page and "20 of them examples" in page and "482 more" in page


def test_the_preview_shows_the_nearest_rows_with_their_likeness(
    client_of: SignIn, member: Any, data: DatasetVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def call(kind: str, payload: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        if kind == "count_tokens":
            return {"tokens": 9, "limit": 512}
        asked.append(payload)
        return {"rows": [{"question": "No light", "answer": "outage", "row": 3, "score": 0.81}]}

    monkeypatch.setattr(stream, "engines", lambda: [{"id": "e"}])
    monkeypatch.setattr(stream, "call_service", call)
    typed = {"technique": "few_shot", "pick": "nearest", "k": "2", "dataset": str(data.pk), "template": "{text}"}
    page = post(client_of(member), "preview", sample="Dark!", **typed)
    assert "0.81" in page and page.index("No light") < page.index("Dark!")
    assert asked == [{"team_id": data.team_id, "dataset_version_id": data.pk, "query": "Dark!", "k": 2}]


def test_rows_are_drawn_as_fixed_examples_to_start_from(client_of: SignIn, member: Any, data: DatasetVersion) -> None:
    page = post(client_of(member), "draw", dataset=str(data.pk), how="label", order_seed="3")
    assert page.count('name="example_question"') == 4 and "internet" in page
    page = post(client_of(member), "draw", dataset=str(data.pk), how="random", k="2", order_seed="3")
    assert page.count('name="example_question"') == 3
    assert not any(text in page for text, _ in (*TEST, *VALIDATION))
    assert "Choose the data set first" in post(client_of(member), "draw", how="label")


def test_another_teams_data_set_gives_no_rows(
    client_of: SignIn, member: Any, other_team: Team, data: DatasetVersion
) -> None:
    theirs = stored(other_team, name="theirs")
    page = post(client_of(member), "draw", dataset=str(theirs.pk), how="label")
    assert "Choose the data set first" in page and TRAIN[0][0] not in page


def test_leakage_is_told_beside_the_form_and_nothing_is_saved(
    client_of: SignIn, member: Any, data: DatasetVersion
) -> None:
    typed = {**TYPED, "name": "leaky", "technique": "few_shot", "dataset": str(data.pk),
             "example_question": [TEST[0][0]], "example_answer": ["outage"]}  # fmt: skip
    response = client_of(member).post(reverse("prompts:new"), typed)
    assert response.status_code == 422 and not Prompt.objects.exists()
    assert "held out in its test split" in response.content.decode()


def test_a_trial_without_an_engine_says_so(client_of: SignIn, member: Any, redis_url: str) -> None:
    assert f"No engine of {settings.BASE_MODEL} is running" in post(client_of(member), "try")


def test_a_trial_asks_the_base_model_of_each_version(
    client_of: SignIn, member: Any, team: Team, redis_url: str, settings: Any
) -> None:
    settings.BASE_MODELS = (settings.BASE_MODEL, "larger")
    saved = prompt_create(team=team, user=member, name="queue", technique="zero_shot", template="Old {question}")
    engine = Responder()
    engine.beat()
    typed = {"prompt": str(saved.prompt_id), "base_model": "larger"}
    assert "No engine of larger is running" in post(client_of(member), "try", **typed) and not engine.take()
    engine.beat(id="scripted-2", base="larger")
    post(client_of(member), "try", **typed)
    assert {request.base for request in engine.take()} == {settings.BASE_MODEL, "larger"}


def test_a_trial_of_a_draft_that_is_wrong_names_it(client_of: SignIn, member: Any, redis_url: str) -> None:
    assert "Unknown placeholder {nope}" in post(client_of(member), "try", template="{nope}")


def test_three_rows_of_draft_and_saved_version_are_one_group(
    client_of: SignIn, member: Any, team: Team, data: DatasetVersion, redis_url: str
) -> None:
    saved = prompt_create(team=team, user=member, name="queue", technique="zero_shot", template="Old {text}",
                          dataset=data)  # fmt: skip
    engine = Responder()
    engine.beat()
    page = post(client_of(member), "try", dataset=str(data.pk), template="New {text}", prompt=str(saved.prompt_id))
    requests = engine.take()
    assert len(requests) == 6 and len({request.group for request in requests}) == 1
    first = [request.messages[-1]["content"].split()[0] for request in requests]
    assert first == ["New", "Old"] * 3 and {r.temperature for r in requests} == {0.0}
    assert all(text in page for text, _ in VALIDATION) and "prompts/try/" in page
    assert PromptVersion.objects.count() == 1


def test_another_teams_prompt_is_not_tried(
    client_of: SignIn, stranger: Any, team: Team, member: Any, redis_url: str
) -> None:
    saved = prompt_create(team=team, user=member, name="queue", technique="zero_shot", template="Secret {question}")
    Responder().beat()
    page = post(client_of(stranger), "try", prompt=str(saved.prompt_id))
    assert "There is no such prompt" in page and not Responder().take()


def test_an_answer_is_judged_by_its_label() -> None:
    done = {"event": "done", "usage": {}}
    assert _shown(0, done, " Outage.", "outage") == (
        "done", {"i": 0, "answer": "Outage.", "usage": {}, "is_right": True},
    )  # fmt: skip
    voted = {**done, "answer": "billing", "agreement": 0.6, "votes": [{"answer": "billing", "n": 3}]}
    assert _shown(0, voted, "…", "outage")[1]["is_right"] is False  # type: ignore[index]
    assert "is_right" not in _shown(0, done, "any text", "")[1]  # type: ignore[index]
    assert _shown(0, {**done, "answer": None}, "…", "outage")[1]["is_right"] is False  # type: ignore[index]


def test_the_rows_to_try_change_with_the_seed_and_come_back(data: DatasetVersion) -> None:
    draft = PromptVersion(prompt=Prompt(name="d"), number=0, dataset_version=data)
    rows = [
        [row["question"] for row in prompt_trial.trial_of(
            [("draft", draft)], data=data, question="", team_id=1, seed=seed).rows]
        for seed in (0, 0, 5)
    ]  # fmt: skip
    assert rows[0] == rows[1] and sorted(rows[0]) == sorted(rows[2])


@pytest.mark.django_db(transaction=True)
async def test_answers_stream_on_one_connection_to_their_end(redis_url: str, team: Team, member: Any) -> None:
    client, engine = AsyncClient(), Responder()
    await client.aforce_login(member)
    await sync_to_async(engine.beat)()
    page = (await client.post(reverse("prompts:try"), TYPED)).content.decode()
    url = page.split('data-trial="')[1].split('"')[0]
    (request,) = await sync_to_async(engine.take)()
    await sync_to_async(engine.answer)(request, "Call us.")
    response = await client.get(url)
    blocks = [block.decode() async for block in response.streaming_content]
    events = [dict(line.partition(": ")[::2] for line in block.strip().splitlines()) for block in blocks]
    names = [event.get("event") for event in events]
    assert names[-1] == "over" and "token" in names
    done = json.loads(next(event["data"] for event in events if event.get("event") == "done"))
    assert done["answer"] == "Call us."


@pytest.mark.django_db(transaction=True)
async def test_a_reader_that_leaves_stops_the_rows(redis_url: str, team: Team, member: Any) -> None:
    client, engine = AsyncClient(), Responder()
    await client.aforce_login(member)
    await sync_to_async(engine.beat)()
    page = (await client.post(reverse("prompts:try"), TYPED)).content.decode()
    (request,) = await sync_to_async(engine.take)()
    await sync_to_async(engine.start)(request)
    await sync_to_async(engine.say)(request, "Call")
    response = await client.get(page.split('data-trial="')[1].split('"')[0])
    async for _ in response.streaming_content:
        break
    await sync_to_async(response.close)()
    assert await sync_to_async(engine.is_cancelled)(request)


def test_a_ticket_of_another_team_or_a_made_up_one_opens_nothing(
    client_of: SignIn, stranger: Any, team: Team, member: Any
) -> None:
    ticket = signing.dumps({"team": team.pk, "ids": [], "wanted": []}, salt=SALT, compress=True)
    client = client_of(stranger)
    assert client.get(reverse("prompts:try_events", args=[ticket])).status_code == 404
    assert client.get(reverse("prompts:try_events", args=["made-up"])).status_code == 404
