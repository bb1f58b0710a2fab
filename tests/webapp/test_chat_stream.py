"""The stream of a turn: all its answers on one connection, taken up again anywhere, cut when the right to read ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.test import AsyncClient
from django.urls import reverse

from jobs import stream_redis
from jobs.stream import answer_key
from tests.webapp.responder import SOURCES, Responder
from webapp import live
from webapp.event_ids import positions_of
from webapp.models import Membership, Message
from webapp.services import chat

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def open_turn(redis_url, team, member) -> list[Message]:
    """Two answers that wait."""
    conversation = chat.conversation_create(team=team, user=member)
    return chat.ask(conversation=conversation, text="Whose tree?", targets=["base", "smollm2-135m-instruct"])[1:]


async def join(user: Any, answer: Message, **more: Any) -> Any:
    client = AsyncClient()
    await client.aforce_login(user)
    url = reverse("chat:events", args=[answer.conversation_id, answer.turn])
    return await client.get(url, more.pop("query", {}), headers=more.pop("headers", {}))


async def events_of(response: Any, *, until: str = "") -> AsyncIterator[tuple[str, str, dict[str, Any]]]:
    """(event, id, data) of each message, to the end or through the first one named `until`."""
    async for block in response.streaming_content:
        fields = dict(line.partition(": ")[::2] for line in block.decode().strip().splitlines())
        if "event" in fields:
            yield fields["event"], fields.get("id", ""), json.loads(fields["data"])
            if fields["event"] == until:
                return


async def test_a_turn_without_open_answers_has_nothing_to_stream(open_turn, member):
    engine = Responder()
    for request in await sync_to_async(engine.take)():
        await sync_to_async(engine.answer)(request, "Both owners.")
    assert (await join(member, open_turn[0])).status_code == 204


async def test_tokens_sources_and_the_end_of_two_answers_arrive(open_turn, member):
    engine = Responder()
    requests = await sync_to_async(engine.take)()
    response = await join(member, open_turn[0])
    assert response.headers["Content-Type"] == "text/event-stream"
    for request in requests:
        await sync_to_async(engine.answer)(request, "Both owners.", SOURCES)
    found = [event async for event in events_of(response)]
    for answer in open_turn:
        mine = [(name, data) for name, _, data in found if data.get("m") == answer.pk]
        assert [name for name, _ in mine] == ["queued", "sources", "start", "token", "token", "ended"]
        assert "".join(data["text"] for name, data in mine if name == "token") == "Both owners."
        assert mine[1][1]["sources"][0]["title"] == "boundary-tree-opinion.pdf"


async def test_a_reader_takes_the_stream_up_where_it_was_left(open_turn, member):
    engine = Responder()
    first, second = await sync_to_async(engine.take)()
    await sync_to_async(engine.say)(first, "One")
    response = await join(member, open_turn[0])
    at = [event_id async for _, event_id, _ in events_of(response, until="token")][-1]
    await sync_to_async(engine.say)(first, " two")
    await sync_to_async(engine.say)(second, "Zwei")
    again = await join(member, open_turn[0], headers={"Last-Event-ID": at})
    for request in (first, second):
        await sync_to_async(engine.finish)(request)
    said = [(data["m"], data["text"]) async for name, _, data in events_of(again) if name == "token"]
    assert sorted(said) == [(open_turn[0].pk, " two"), (open_turn[1].pk, "Zwei")]


async def test_a_question_asked_while_no_engine_runs_is_answered_when_one_is_back(open_turn, member, monkeypatch):
    monkeypatch.setattr("webapp.views.chat_stream.BEAT_S", 0.05)
    response = await join(member, open_turn[0])
    waiting = [data async for _, _, data in events_of(response, until="waiting")][-1]
    assert waiting["engines"] == 0
    engine = Responder()
    again = await join(member, open_turn[0])
    for request in await sync_to_async(engine.take)():
        await sync_to_async(engine.answer)(request, "Back.")
    said = [data["text"] async for name, _, data in events_of(again) if name == "token"]
    assert said == ["Back.", "Back."]


async def test_an_expired_stream_falls_back_to_what_is_stored(open_turn, member):
    answer = open_turn[0]
    for message in open_turn:
        await sync_to_async(stream_redis.client().delete)(answer_key(message.request_id.hex))
    response = await join(member, answer)
    await sync_to_async(chat.answer_finished)(message_id=answer.pk, text="Stored.")
    await sync_to_async(chat.answer_finished)(message_id=open_turn[1].pk, text="Stored.")
    assert [name async for name, _, _ in events_of(response)] == ["ended", "ended"]


async def test_a_suspended_member_is_cut_off(open_turn, member, monkeypatch):
    monkeypatch.setattr(live, "CHECK_S", 0.0)
    response = await join(member, open_turn[0])
    await Membership.objects.filter(user=member).aupdate(is_suspended=True)
    names = [name async for name, _, _ in events_of(response)]
    assert names[-1] == "cut"


async def test_signing_out_cuts_the_stream(open_turn, member, monkeypatch):
    monkeypatch.setattr(live, "CHECK_S", 0.0)
    client = AsyncClient()
    await client.aforce_login(member)
    answer = open_turn[0]
    response = await client.get(reverse("chat:events", args=[answer.conversation_id, answer.turn]))
    await client.alogout()
    assert [name async for name, _, _ in events_of(response)][-1] == "cut"


async def test_the_right_to_read_is_checked_within_five_seconds():
    assert live.CHECK_S + 2 <= 5


async def test_another_members_turn_does_not_exist(open_turn, admin):
    assert (await join(admin, open_turn[0])).status_code == 404


async def test_rows_of_other_teams_are_counted_never_named(open_turn, member, team, other_team, monkeypatch):
    monkeypatch.setattr("webapp.views.chat_stream.BATCH_S", 0.01)
    engine = Responder()
    request, _ = await sync_to_async(engine.take)()
    rows = [
        {"id": request.id, "label": "plain model", "team_id": team.pk, "position": 31, "capacity": 286},
        {"id": "x", "label": "secret-sauce@3", "team_id": other_team.pk, "position": 9, "capacity": 99},
        {"id": "y", "label": "triage@1", "team_id": team.pk, "position": 9, "capacity": 99},
    ]
    await sync_to_async(engine.beat)(rows)
    response = await join(member, open_turn[0])
    *_, (_, _, batch) = [event async for event in events_of(response, until="batch")]
    assert [(r["label"], r["mine"]) for r in batch["rows"]] == [
        ("plain model", open_turn[0].pk), ("another team", None), ("triage@1", None)
    ]  # fmt: skip
    assert "secret" not in json.dumps(batch) and "99" not in json.dumps(batch["rows"])


async def test_the_batch_tells_what_the_engine_does_meanwhile(open_turn, member, monkeypatch):
    monkeypatch.setattr("webapp.views.chat_stream.BATCH_S", 0.01)
    engine = Responder()
    request, _ = await sync_to_async(engine.take)()
    figures = {"tokens_per_s": 83.2, "queue": 2, "resident_by_form": {"prefix_kv": {"n": 3, "bytes": 900}},
               "shared_prefixes": {"rows": 4, "hits": 3, "bytes": 100}}  # fmt: skip
    await sync_to_async(engine.beat)([{"id": request.id, "team_id": 0}], **figures)
    *_, (_, _, batch) = [event async for event in events_of(await join(member, open_turn[0]), until="batch")]
    told = {name: batch[name] for name in ("slots", "step_ms", "tokens_per_s", "queue")}
    assert told == {"slots": 8, "step_ms": 33.0, "tokens_per_s": 83.2, "queue": 2}
    assert (batch["n_resident"], batch["resident_bytes"], batch["prefix_share"]) == (3, 1000, 75.0)


async def test_closing_the_stream_stops_no_answer(open_turn, member):
    engine = Responder()
    request, _ = await sync_to_async(engine.take)()
    response = await join(member, open_turn[0])
    found = events_of(response, until="queued")
    await anext(found)
    await found.aclose()
    await asyncio.sleep(0)
    assert not await sync_to_async(engine.is_cancelled)(request)


def test_nonsense_as_a_position_is_the_beginning():
    assert positions_of("12:5-1_13:7-0") == {12: "5-1", 13: "7-0"}
    assert positions_of("12:0-0;DROP_x:1-1_13_14:-_15:1-²") == {}
