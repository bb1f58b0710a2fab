"""Admins drain an engine and let it serve again; everybody sees that it is drained."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from jobs import stream
from ml.errors import UnavailableError
from tests.webapp.test_engines import beat_of, page_for
from tests.webapp.test_engines import beats as beats
from webapp.api.chat import need_engine
from webapp.models import AuditEvent, Team
from webapp.selectors import health

pytestmark = pytest.mark.django_db
SignIn = Callable[[Any], Client]
PLACE = {"base": "tiny", "host": "box"}


def post(client: Client, name: str, **place: str) -> int:
    return client.post(reverse(f"engines:{name}"), place or PLACE).status_code


def drained_by(team: Team, **place: str) -> None:
    stream.drain(stream.Drain(**(place or PLACE), by="ada", team_id=team.pk, at=time.time()))


def test_an_admin_drains_an_engine_and_lets_it_serve_again(
    client_of: SignIn, admin: Any, beats: list[dict[str, Any]], redis_url: str
) -> None:
    beats.append(beat_of())
    client = client_of(admin)
    page = page_for(client)
    assert reverse("engines:drain") in page and "data-confirm" in page and reverse("engines:serve") not in page
    assert post(client, "drain") == 302 and stream.is_drained("tiny", "box")
    beats[0] = {"id": "f", **PLACE, "state": "drained", "slots": 4, "rows": [], "resident": [], "queue": 0}
    page = page_for(client, "live")
    assert "Drained by ada" in page and "waits to serve again" in page and reverse("engines:drain") not in page
    assert post(client, "serve") == 302 and not stream.is_drained("tiny", "box")
    events = AuditEvent.objects.order_by("pk").values_list("action", "subject", "created_by__username")
    assert list(events) == [("engine.drain", "tiny on box", "ada"), ("engine.serve", "tiny on box", "ada")]


@pytest.mark.parametrize("name", ["drain", "serve"])
def test_only_an_admin_may(
    name: str, client_of: SignIn, viewer: Any, member: Any, beats: list[dict[str, Any]], redis_url: str, team: Team
) -> None:
    beats.append(beat_of())
    for user in (viewer, member):
        assert post(client_of(user), name) == 403
    assert post(Client(), name) in (302, 401, 403) and not stream.drains()
    drained_by(team)
    page = page_for(client_of(member))
    assert "Drained by ada" in page and reverse(f"engines:{name}") not in page
    assert post(client_of(member), "serve") == 403 and stream.drains()


@pytest.mark.parametrize("name", ["drain", "serve"])
def test_it_takes_a_post_with_a_token_of_the_form(name: str, admin: Any, beats: list[dict[str, Any]]) -> None:
    beats.append(beat_of())
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(admin)
    assert post(strict, name) == 403 and strict.get(reverse(f"engines:{name}")).status_code == 405


def test_what_is_not_there_is_not_drained_and_leaves_no_trace(
    client_of: SignIn, admin: Any, beats: list[dict[str, Any]], redis_url: str
) -> None:
    beats.append(beat_of())
    client = client_of(admin)
    assert post(client, "drain", base="tiny", host="elsewhere") == 404 and post(client, "serve") == 404
    assert not stream.drains() and not AuditEvent.objects.exists()


def test_an_admin_of_another_team_is_not_named(
    client_of: SignIn, viewer: Any, other_team: Team, beats: list[dict[str, Any]], redis_url: str
) -> None:
    beats.append(beat_of(state="drained"))
    drained_by(other_team)
    page = page_for(client_of(viewer))
    assert "Drained by an admin of another team" in page and "by ada" not in page


def test_a_drain_without_a_process_can_be_taken_back(
    client_of: SignIn, admin: Any, team: Team, beats: list[dict[str, Any]], redis_url: str
) -> None:
    drained_by(team)
    client = client_of(admin)
    page = page_for(client)
    assert "no process on box now" in page and reverse("engines:serve") in page
    assert post(client, "serve") == 302 and not stream.drains()


@pytest.mark.parametrize("base", ["tiny", ""])
def test_the_api_refuses_what_only_a_drained_engine_would_answer(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def found() -> list[dict[str, Any]]:
        return [beat_of(state="drained")]

    monkeypatch.setattr(stream, "aengines", found)
    with pytest.raises(UnavailableError, match="running") as caught:
        asyncio.run(need_engine(base))
    assert caught.value.code == "engine_starting" and "An admin has drained it" in caught.value.hint


def test_a_drained_engine_counts_as_none(
    client_of: SignIn, viewer: Any, beats: list[dict[str, Any]], settings: Any, redis_url: str
) -> None:
    beats.append(beat_of(base=settings.BASE_MODEL, state="drained"))
    assert health.engine_part(beats) == {"state": "down", "text": "drained by an admin"}
    client = client_of(viewer)
    assert "The engine is not running" in client.get(reverse("chat:engine")).content.decode()
    assert "the engine is not running" in client.get(reverse("bed")).content.decode()
