"""/healthz: what it says of each part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from jobs import stream
from webapp.selectors import health

pytestmark = pytest.mark.django_db
ALL_UP = {"state": "ready", "text": "works"}


def beat_of(state: str, base: str = "") -> dict[str, Any]:
    return {"id": "e1", "state": state, "base": base or settings.BASE_MODEL}


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    health.forget()
    yield
    health.forget()


@pytest.fixture
def models(settings: Any, tmp_path: Path) -> Path:
    settings.MODELS_DIR = tmp_path / "models"
    for name in (settings.BASE_MODEL, settings.EMBEDDING_MODEL):
        (settings.MODELS_DIR / name).mkdir(parents=True)
        (settings.MODELS_DIR / name / "config.json").write_text("{}")
    return settings.MODELS_DIR


@pytest.fixture
def everything_up(redis_url: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in health.ALIVE.values():
        stream.client().set(key, "1")
    monkeypatch.setattr(health, "_vector_store", lambda: ALL_UP)
    monkeypatch.setattr(stream, "engines", lambda: [beat_of("ready")])


def parts_of(client: Client) -> dict[str, Any]:
    return client.get("/healthz").json()["parts"]


def test_it_is_200_when_every_part_is_ready(client: Client, everything_up: None) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()["ready"]) == (200, True)
    assert list(answer.json()["parts"]) == list(health.PARTS)


def test_nobody_caches_it(client: Client, everything_up: None) -> None:
    assert "no-store" in client.get("/healthz")["Cache-Control"]


def test_it_changes_nothing_and_takes_no_post(client: Client) -> None:
    assert client.post("/healthz").status_code == 405


def test_a_worker_that_stopped_beating_makes_it_503(client: Client, everything_up: None) -> None:
    stream.client().delete(health.ALIVE["worker_gpu"])
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["parts"]["worker_gpu"]["state"] == "down"
    assert answer.json()["parts"]["worker_cpu"]["state"] == "ready"


def test_a_vector_store_that_does_not_answer_is_down(client: Client, redis_url: str) -> None:
    assert parts_of(client)["vector_store"]["state"] == "down"


def test_with_redis_down_it_still_answers_and_hides_the_address(client: Client) -> None:
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["parts"]["redis"]["state"] == "down"
    assert answer.json()["parts"]["engine"]["state"] == "down"
    assert "127.0.0.1" not in answer.content.decode()


def test_an_engine_that_still_loads_is_starting(client: Client, everything_up: None, monkeypatch: Any) -> None:
    monkeypatch.setattr(stream, "engines", lambda: [beat_of("loading")])
    assert parts_of(client)["engine"] == {"state": "starting", "text": "loading"}


def test_one_engine_that_serves_is_enough(everything_up: None) -> None:
    part = health.engine_part([beat_of("loading"), beat_of("ready")])
    assert part == {"state": "ready", "text": "1 running", "count": 1}


def test_every_base_model_needs_an_engine_of_its_own(settings: Any) -> None:
    settings.BASE_MODELS = ("one", "two")
    assert health.engine_part([beat_of("ready", "one")]) == {"state": "down", "text": "no engine of two is running"}
    loading = [beat_of("ready", "one"), beat_of("draining", "two"), beat_of("loading", "two")]
    assert health.engine_part(loading) == {"state": "starting", "text": "draining of two"}
    assert health.engine_part([beat_of("ready", "one"), beat_of("ready", "two")])["count"] == 2


def test_models_being_fetched_show_how_far_they_are(client: Client, redis_url: str, settings: Any) -> None:
    settings.MODELS_DIR = Path("/nonexistent")
    stream.client().hset(health.SETUP, mapping={"state": "running", "text": "converting", "done": "3", "total": "8"})
    assert parts_of(client)["models"] == {"state": "starting", "text": "converting", "done": 3, "total": 8}


def test_models_that_could_not_be_fetched_say_why(client: Client, redis_url: str, settings: Any) -> None:
    settings.MODELS_DIR = Path("/nonexistent")
    stream.client().hset(health.SETUP, mapping={"state": "failed", "text": "No network."})
    assert parts_of(client)["models"] == {"state": "down", "text": "No network."}
