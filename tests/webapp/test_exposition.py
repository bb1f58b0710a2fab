"""/metrics: who may read it, that its text is Prometheus' format to the letter, and what the figures are."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from jobs import stream, stream_redis
from webapp.config import Config, metrics_token_of
from webapp.models import Role, Run, Team
from webapp.selectors import health
from webapp.services.teams import token_create

pytestmark = pytest.mark.django_db
TOKEN = "a-token-of-the-operator"
VALUE = r'"(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"([a-z][a-z0-9_]*)(?:\{{([a-z_]+={VALUE}(?:,[a-z_]+={VALUE})*)\}})? (-?[0-9.]+(?:e[+-]?\d+)?)")


@pytest.fixture(autouse=True)
def asked_anew(settings: Any) -> Iterator[None]:
    settings.METRICS_TOKEN = TOKEN
    health.forget()
    yield
    health.forget()


def ask(token: str = TOKEN, **headers: str) -> Any:
    return Client().get("/metrics", headers={"Authorization": f"Bearer {token}", **headers})


def figures() -> dict[str, float]:
    """Every sample by its name and labels, as it is written."""
    lines = ask().content.decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def beat(name: str = "host-7-abc", **changes: Any) -> None:
    fields = {
        "id": name, "base": "tiny", "state": "ready", "slots": 8, "queue": 2, "step": 90, "step_ms": 12.5,
        "started_at": 1000.5, "rows": [{"label": "secret@9", "team_id": 3}] * 3,
        "resident": [{"artifact": "d" * 64, "label": "secret@9", "bytes": 7}],
        "resident_by_form": {"lora_delta": {"n": 3, "bytes": 900}, "own_backbone": {"n": 1, "bytes": 50}},
        "shared_prefixes": {"rows": 40, "hits": 31, "tokens": 9021, "found": 5, "computed": 2, "bytes": 77},
        "totals": {"steps": 90, "tokens": 1200, "decodes": 80, "decode_s": 1.5},
        "ended": {"done": 11, "cancelled": 1, "failed": 2},
    } | changes  # fmt: skip
    client = stream_redis.client()
    client.hset(stream.engine_key(name), mapping={key: json.dumps(value) for key, value in fields.items()})
    client.zadd(stream.ENGINES, {name: time.time()})


def submit(n: int) -> None:
    messages = [{"role": "user", "content": "?"}]
    for _ in range(n):
        stream.submit([stream.GenerateRequest(team_id=1, base=settings.BASE_MODEL, messages=messages)])


# Who may read it


@pytest.mark.parametrize("headers", [
    {}, {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": "Bearer "},
    {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": "Bearer täst"}, {"X-Forwarded-For": "127.0.0.1"},
])  # fmt: skip
def test_without_the_token_it_says_401_and_nothing_else(headers: dict[str, str]) -> None:
    response = Client().get("/metrics", headers=headers)
    said = response.content.decode()
    assert response.status_code == 401 and "coldframe_" not in said and "METRICS_TOKEN" in said


def test_a_token_in_the_address_is_none() -> None:
    assert Client().get(f"/metrics?token={TOKEN}").status_code == 401


def test_no_member_s_session_or_token_opens_it(admin: Any, team: Team, client_of: Callable[[Any], Client]) -> None:
    assert client_of(admin).get("/metrics").status_code == 401
    refused = ask(token_create(team=team, user=admin, name="t", role=Role.ADMIN)[1])
    assert refused.status_code == 403 and "METRICS_TOKEN" in refused.content.decode(), "no admin could help"


def test_an_empty_setting_lets_nobody_in(settings: Any) -> None:
    settings.METRICS_TOKEN = ""
    assert ask("").status_code == 401


def test_it_is_only_read_and_never_cached() -> None:
    response = ask()
    assert response.status_code == 200 and "no-store" in response["Cache-Control"]
    assert Client().post("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 405


def test_a_token_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    config = Config(coldframe_var=tmp_path, metrics_token="")
    made = metrics_token_of(config)
    assert len(made) > 40 and metrics_token_of(config) == made
    assert (tmp_path / "metrics_token").stat().st_mode & 0o777 == 0o600


def test_a_short_token_is_refused_at_the_start() -> None:
    with pytest.raises(ValidationError, match="metrics_token"):
        Config(metrics_token="short")


# Its form


def test_every_line_is_of_the_format(redis_url: str) -> None:
    beat('odd"name\\of\nan engine')
    response = ask()
    assert response["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = response.content.decode()
    assert text.endswith("\n") and r'engine="odd\"name\\of\nan engine"' in text
    about: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.removeprefix("# TYPE ").split(" ")
            assert name not in about and kind in ("gauge", "counter")
            about[name] = kind
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert list(about)[-1] == match.group(1), f"{line} is not under its own name"
    assert all(name.startswith("coldframe_") for name in about)
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in about.items())


def test_prometheus_own_parser_reads_it(redis_url: str) -> None:
    beat()
    families = {family.name: family for family in text_string_to_metric_families(ask().content.decode())}
    (tokens,) = families["coldframe_engine_tokens"].samples
    assert families["coldframe_engine_tokens"].type == "counter" and tokens.value == 1200
    assert tokens.labels == {"engine": "host-7-abc", "base": "tiny"}
    assert all(family.documentation for family in families.values())


def test_no_sample_comes_twice(redis_url: str) -> None:
    beat("one")
    beat("two", state="loading the model")
    names = [line.rpartition(" ")[0] for line in ask().content.decode().splitlines() if not line.startswith("#")]
    assert len(names) == len(set(names))


# Its figures


def test_an_engine_s_figures_are_those_of_its_heartbeat(redis_url: str) -> None:
    beat()
    found, of = figures(), 'base="tiny",engine="host-7-abc"'
    assert {name: found[f"coldframe_engine_{name}{{{of}}}"] for name in (
        "up", "slots", "rows", "queue", "steps_total", "tokens_total", "step_seconds", "decode_steps_total",
        "decode_seconds_total", "start_time_seconds", "prefix_bytes", "prefix_saved_tokens_total",
    )} == {
        "up": 1, "slots": 8, "rows": 3, "queue": 2, "steps_total": 90, "tokens_total": 1200, "step_seconds": 0.0125,
        "decode_steps_total": 80, "decode_seconds_total": 1.5, "start_time_seconds": 1000.5, "prefix_bytes": 77,
        "prefix_saved_tokens_total": 9021,
    }  # fmt: skip
    assert found[f'coldframe_engine_resident_bytes{{{of},form="own_backbone"}}'] == 50
    assert found[f'coldframe_engine_resident_adapters{{{of},form="lora_delta"}}'] == 3
    assert found[f'coldframe_engine_prefix_hits_total{{{of},kind="prompt"}}'] == 31
    assert found[f'coldframe_engine_prefix_misses_total{{{of},kind="prompt"}}'] == 9
    assert found[f'coldframe_engine_prefix_misses_total{{{of},kind="task"}}'] == 2
    assert found[f'coldframe_engine_requests_total{{{of},outcome="failed"}}'] == 2


def test_an_engine_that_still_loads_is_there_but_not_up(redis_url: str) -> None:
    stream_redis.client().zadd(stream.ENGINES, {"e": time.time()})
    told = {"id": "e", "base": "tiny", "state": "loading the model", "slots": 8, "rows": [], "queue": 0}
    stream_redis.client().hset(stream.engine_key("e"), mapping={key: json.dumps(value) for key, value in told.items()})
    found, of = figures(), 'base="tiny",engine="e"'
    assert found[f"coldframe_engine_up{{{of}}}"] == 0
    assert found[f'coldframe_engine_state{{{of},state="loading the model"}}'] == 1
    assert found[f'coldframe_engine_requests_total{{{of},outcome="done"}}'] == 0
    assert f"coldframe_engine_tokens_total{{{of}}}" not in found


def test_the_queue_tells_what_waits_and_for_how_long(redis_url: str) -> None:
    submit(3)
    client = stream_redis.client()
    client.xgroup_create(stream.requests_key(settings.BASE_MODEL), stream.GROUP, id="0")
    client.xreadgroup(stream.GROUP, "e", {stream.requests_key(settings.BASE_MODEL): ">"}, count=2)
    found = figures()
    assert found['coldframe_queue_requests{place="waiting"}'] == 1
    assert found['coldframe_queue_requests{place="taken"}'] == 2
    assert 0 <= found["coldframe_queue_oldest_seconds"] < 60


def test_the_age_is_that_of_the_oldest_that_no_engine_has_taken(redis_url: str) -> None:
    long_ago = int(time.time() * 1000) - 90_000
    stream_redis.client().xadd(stream.requests_key(settings.BASE_MODEL), {"id": "x"}, id=f"{long_ago}-0")
    submit(1)
    assert 90 <= figures()["coldframe_queue_oldest_seconds"] < 150
    stream_redis.client().xgroup_create(stream.requests_key(settings.BASE_MODEL), stream.GROUP, id="0")
    stream_redis.client().xreadgroup(stream.GROUP, "e", {stream.requests_key(settings.BASE_MODEL): ">"}, count=1)
    assert figures()["coldframe_queue_oldest_seconds"] < 60


def test_an_empty_queue_has_no_age(redis_url: str) -> None:
    found = figures()
    assert found["coldframe_queue_oldest_seconds"] == found['coldframe_queue_requests{place="waiting"}'] == 0


def test_answers_are_counted_by_how_they_ended(redis_url: str) -> None:
    stream_redis.client().hset(stream.ENDED, mapping={"done": 7, "failed": 1})
    found = figures()
    assert [found[f'coldframe_answers_total{{outcome="{name}"}}'] for name in ("done", "failed", "cancelled")] == [
        7,
        1,
        0,
    ]


def test_runs_are_counted_by_kind_and_state_with_their_leases(redis_url: str, team: Team, other_team: Team) -> None:
    now = timezone.now()
    for whose, state, lease in (
        (team, "queued", None), (other_team, "queued", None), (team, "running", now + timedelta(minutes=1)),
        (team, "running", now - timedelta(minutes=1)),
    ):  # fmt: skip
        Run.objects.create(team=whose, kind=Run.Kind.TRAIN, title="secret", state=state, lease_until=lease)
    Run.objects.filter(state="queued", team=team).update(created_at=now - timedelta(seconds=100))
    found = figures()
    assert found['coldframe_runs{kind="train",state="queued"}'] == 2
    assert found['coldframe_runs{kind="study",state="failed"}'] == 0
    assert found["coldframe_run_leases"] == 1 and 100 <= found["coldframe_runs_oldest_queued_seconds"] < 160


def test_nothing_of_any_team_is_in_it(redis_url: str, team: Team, admin: Any) -> None:
    beat()
    Run.objects.create(team=team, kind=Run.Kind.TRAIN, title="secret run", created_by=admin)
    text = ask().content.decode()
    families = text_string_to_metric_families(text)
    labels = {name for family in families for sample in family.samples for name in sample.labels}
    assert labels == {"engine", "base", "state", "form", "kind", "outcome", "place", "part"}
    assert not [word for word in ("secret", team.slug, team.name, "d" * 64) if word in text]


def test_with_redis_down_the_rest_is_still_told(redis_url_unreachable: None, team: Team) -> None:
    stream_redis.configure("")
    Run.objects.create(team=team, kind=Run.Kind.TRAIN, title="t")
    found = figures()
    assert found['coldframe_part_ready{part="redis"}'] == found['coldframe_part_ready{part="engine"}'] == 0
    assert found['coldframe_part_ready{part="database"}'] == 1
    assert found['coldframe_runs{kind="train",state="queued"}'] == 1
    assert not [name for name in found if name.startswith("coldframe_engine")]
