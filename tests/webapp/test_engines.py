"""The page of the engines: what a team sees of them, and what it does not see of others."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse

from jobs import stream, stream_redis
from ml.errors import UnavailableError
from tests.webapp.library import published
from webapp.models import AdapterVersion, Team
from webapp.selectors import engines as selectors

pytestmark = pytest.mark.django_db
SignIn = Callable[[Any], Client]


@pytest.fixture(autouse=True)
def beats(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Heartbeats that the pages see; fill the list."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(stream, "engines", lambda: found)
    return found


@pytest.fixture
def version(team: Team, tmp_path: Path, settings: Any) -> AdapterVersion:
    settings.STORAGE_DIR = tmp_path / "storage"
    settings.STORAGE_DIR.mkdir()
    return published(team, tmp_path / "out", name="triage")


def row_of(team: Team, **changes: Any) -> dict[str, Any]:
    return {
        "form": "lora_delta", "position": 60, "prefix_tokens": 10, "n_tokens": 20, "capacity": 100, "state": "decode",
        "slot": 0, "seconds": 2.0, "team_id": team.pk, "label": "triage@production", "artifact": "",
    } | changes  # fmt: skip


def beat_of(**changes: Any) -> dict[str, Any]:
    return {
        "id": "e", "base": "tiny", "pid": 7, "host": "box", "device": "cpu", "slots": 4, "length": 2048, "step": 9,
        "step_ms": 33.0, "queue": 1, "tokens_per_s": 121.0, "state": "ready", "started_at": time.time(), "rows": [],
        "resident": [], "totals": {"steps": 9, "tokens": 1234567, "decodes": 8, "decode_s": 0.5},
        "shared_prefixes": {"rows": 40, "hits": 31, "tokens": 9021, "found": 5, "computed": 2, "bytes": 3000},
    } | changes  # fmt: skip


def pane_of(team: Team, **changes: Any) -> dict[str, Any]:
    (pane,) = selectors.engine_panes(team=team, beats=[beat_of(**changes)])
    return pane


def page_for(client: Client, name: str = "index") -> str:
    response = client.get(reverse(f"engines:{name}"))
    assert response.status_code == 200
    return " ".join(response.content.decode().split())


@pytest.mark.parametrize("name", ["index", "live"])
def test_the_figures_of_an_engine_are_on_its_page(
    name: str, client_of: SignIn, viewer: Any, beats: list[dict[str, Any]]
) -> None:
    beats.append(beat_of(resident_by_form={"lora_delta": {"n": 2, "bytes": 5000}}))
    page = page_for(client_of(viewer), name)
    for text in ("tiny on cpu", "answering", "33.0 <small>ms", "121 <small>tok/s", "1 <small>waiting", "77.5 <small>%",
                 "31 of 40 rows", "9,021 tokens", "1,234,567 tokens", "2 <small>tasks", "8 kB beside"):  # fmt: skip
        assert text in page


def test_of_another_team_only_form_and_amount_are_shown(
    client_of: SignIn, viewer: Any, team: Team, other_team: Team, version: AdapterVersion, beats: list[dict[str, Any]]
) -> None:
    theirs = {"label": "secret@9", "artifact": "d" * 64}
    beats.append(beat_of(
        rows=[row_of(team), row_of(other_team, **theirs, slot=1, position=77_123, capacity=88_123)],
        resident=[{"artifact": version.artifact, "label": "triage@1", "form": "lora_delta", "bytes": 900},
                  {**theirs, "form": "scale", "bytes": 4000}],
    ))  # fmt: skip
    page = page_for(client_of(viewer), "live")
    for text in ("triage@production", "triage@1", "another team", "1 task of other teams", "4 kB"):
        assert text in page
    assert not [told for told in ("secret", "d" * 12, "77,123", "88,123", "77123", "88123") if told in page]


def test_files_that_two_teams_share_carry_our_name_not_theirs(team: Team, version: AdapterVersion) -> None:
    task = {"artifact": version.artifact, "label": "what-they-call-it@3", "form": "lora_delta", "bytes": 900}
    pane = pane_of(team, resident=[task, {**task, "artifact": "d" * 64}])
    assert [task["label"] for task in pane["resident"]] == ["triage@1"] and pane["n_foreign"] == 1


def test_the_bars_of_a_row_add_up_to_what_is_reserved_for_it(team: Team) -> None:
    pane = pane_of(team, rows=[row_of(team), row_of(team, slot=1, capacity=200)])
    short, long = pane["rows"]
    assert [bar["kind"] for bar in short["bars"]] == ["f-frost", "f-frostfill", "f-grown", "f-soft"]
    assert [float(bar["width"]) for bar in short["bars"]] == [5, 15, 10, 20]
    assert sum(float(bar["width"]) for bar in long["bars"]) == 100 and pane["scale"] == 200
    assert (short["speed"], short["prompt"], short["written"]) == (10.0, 30, 20)


def test_another_team_s_long_row_does_not_set_the_scale_of_ours(team: Team, other_team: Team) -> None:
    """Or its length could be read off our own bars."""
    assert pane_of(team, rows=[row_of(team), row_of(other_team, capacity=2000, slot=1)])["scale"] == 100


def test_a_row_and_a_task_lead_to_their_adapter(team: Team, version: AdapterVersion) -> None:
    pane = pane_of(team, rows=[row_of(team, artifact=version.artifact)],
                   resident=[{"artifact": version.artifact, "form": "lora_delta", "bytes": 9}])  # fmt: skip
    assert pane["rows"][0]["url"] == pane["resident"][0]["url"]
    assert pane["rows"][0]["url"].startswith(reverse("adapters:detail", args=[version.adapter_id]))


def test_tasks_beyond_those_that_the_engine_names_are_counted(team: Team) -> None:
    pane = pane_of(team, resident=[{"artifact": "d" * 64, "form": "prefix_kv", "bytes": 9}],
                   resident_by_form={"prefix_kv": {"n": 1000, "bytes": 4_000_000}})  # fmt: skip
    assert (pane["n_resident"], pane["n_unlisted"], pane["n_foreign"]) == (1000, 999, 1)
    assert pane["resident_bytes"] == 4_003_000


def test_a_pinned_task_and_a_model_of_its_own_are_marked(
    client_of: SignIn, viewer: Any, version: AdapterVersion, beats: list[dict[str, Any]]
) -> None:
    task = {"artifact": version.artifact, "form": "own_backbone", "bytes": 9, "pinned": True}
    beats.append(beat_of(resident=[task]))
    page = page_for(client_of(viewer))
    assert '<span class="cf-tag">pinned</span>' in page and "a model of its own" in page


@pytest.mark.parametrize(("state", "words"), [
    ("waiting for vLLM", ["waiting for vLLM", "engine&#x27;s log"]),
    ("waiting for the model", ["waiting for its model", "models folder"]), ("loading the model", ["some seconds"]),
])  # fmt: skip
def test_an_engine_without_its_model_says_what_it_waits_for(
    state: str, words: list[str], client_of: SignIn, viewer: Any, beats: list[dict[str, Any]]
) -> None:
    beats.append({"id": "e", "base": "tiny", "state": state, "slots": 4, "rows": [], "resident": [], "queue": 0})
    page = page_for(client_of(viewer))
    assert all(word in page for word in words) and "tok/s" not in page


def test_several_engines_stand_in_an_order_that_stays(
    client_of: SignIn, viewer: Any, beats: list[dict[str, Any]]
) -> None:
    beats += [beat_of(id="2", base="tiny", state="draining", started_at=20.0, device="cuda:0"),
              beat_of(id="1", base="tiny", started_at=10.0)]  # fmt: skip
    page = page_for(client_of(viewer))
    assert page.index("tiny on cpu") < page.index("tiny on cuda:0") and "takes no new requests" in page


QUESTION = [{"role": "user", "content": "?"}]


def test_with_no_engine_it_says_what_to_do(client_of: SignIn, viewer: Any, redis_url: str) -> None:
    for _ in range(2):
        stream.submit([stream.GenerateRequest(team_id=1, base=settings.BASE_MODEL, messages=QUESTION)])
    page = page_for(client_of(viewer))
    assert "not running" in page and "make up" in page and "2 requests wait for an engine" in page


def test_it_stands_when_redis_is_down(
    client_of: SignIn, viewer: Any, monkeypatch: pytest.MonkeyPatch, redis_url_unreachable: None
) -> None:
    def down() -> Any:
        raise UnavailableError("Redis does not answer.")

    monkeypatch.setattr(stream, "engines", down)
    assert "without it no engine can be seen" in page_for(client_of(viewer))


def test_the_last_minutes_end_at_the_right_in_means_of_ten_seconds(redis_url: str, team: Team) -> None:
    for tokens in (10, 30, 40, 80):
        sample = {"rows": 1, "tokens_per_s": tokens, "step_ms": 0, "queue": 0}
        stream_redis.client().rpush(stream.past_key("e"), json.dumps(sample))
    speed, rows, step = pane_of(team)["past"]
    assert speed["most"] == 80
    assert [float(bar["height"]) for bar in speed["bars"]] == [75, 25]
    assert float(speed["bars"][0]["x"]) > float(speed["bars"][1]["x"]) > 95 and speed["now"] == 80
    assert len(rows["bars"]) == 2 and step["bars"] == []


def test_of_an_engine_that_nobody_asked_no_minutes_are_drawn(redis_url: str, team: Team) -> None:
    stream_redis.client().rpush(stream.past_key("e"), json.dumps({"rows": 0, "tokens_per_s": 0, "step_ms": 0}))
    assert pane_of(team)["past"] == []


def test_it_is_found_at_the_foot_of_the_navigation(client_of: SignIn, viewer: Any) -> None:
    page = client_of(viewer).get(reverse("bed")).content.decode()
    assert f'href="{reverse("engines:index")}"' in page


@pytest.mark.parametrize("name", ["index", "live"])
def test_the_pages_are_only_read(client_of: SignIn, admin: Any, name: str) -> None:
    assert client_of(admin).post(reverse(f"engines:{name}")).status_code == 405
