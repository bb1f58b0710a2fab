"""The frozen part: the table kept in step with the folder, who serves what, the set-up's progress."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from jobs import stream
from ml.errors import UnavailableError
from tests.webapp.library import published
from webapp.models import BaseModel, Team
from webapp.services.models import models_sync

SignIn = Callable[[Any], Client]


def _folder(root: Path, name: str, *, shapes: dict[str, list[int]] | None = None, **about: Any) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2,
              "hidden_size": 16, "max_position_embeddings": 128}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    if about:
        (folder / "coldframe.json").write_text(json.dumps(about))
    head = {key: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for key, shape in (shapes or {}).items()}
    text = json.dumps({"__metadata__": {}, **head}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    return folder


@pytest.fixture(autouse=True)
def models_dir(settings: Any, tmp_path: Path, db: None) -> Path:
    settings.MODELS_DIR = tmp_path / "models"
    settings.STORAGE_DIR = tmp_path / "storage"
    settings.MODELS_DIR.mkdir()
    settings.STORAGE_DIR.mkdir()
    return settings.MODELS_DIR


@pytest.fixture(autouse=True)
def beats(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Heartbeats that the pages see; fill the list."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(stream, "engines", lambda: found)
    monkeypatch.setattr(stream, "setup_progress", lambda: None)
    return found


def _redis_is_down() -> Any:
    raise UnavailableError("Redis does not answer.")


def test_a_model_folder_becomes_a_row(models_dir: Path) -> None:
    _folder(models_dir, "tiny", shapes={"a": [4, 8], "b": [3]}, fingerprint="f" * 64, license="apache-2.0",
            family="decoder", source={"package": "llm-tiny", "version": "1.2"})  # fmt: skip
    models_sync()
    row = BaseModel.objects.get()
    assert (row.name, row.family, row.licence, row.source, row.revision) == (
        "tiny", "decoder", "Apache-2.0", "llm-tiny", "1.2",
    )  # fmt: skip
    assert row.fingerprint == "f" * 64
    assert (row.config["parameters"], row.config["layers"], row.config["context"]) == (35, 2, 128)


def test_looking_again_writes_nothing(models_dir: Path, django_assert_num_queries: Any) -> None:
    _folder(models_dir, "tiny", shapes={"a": [2]})
    models_sync()
    with django_assert_num_queries(1):
        models_sync()


def test_a_fingerprint_that_came_later_is_taken_over(models_dir: Path) -> None:
    folder = _folder(models_dir, "tiny")
    models_sync()
    (folder / "coldframe.json").write_text(json.dumps({"fingerprint": "e" * 64}))
    models_sync()
    assert BaseModel.objects.get().fingerprint == "e" * 64


def test_a_folder_that_is_gone_stays_listed_as_missing(models_dir: Path) -> None:
    folder = _folder(models_dir, "tiny")
    models_sync()
    folder.rename(models_dir.parent / "elsewhere")
    models_sync()
    assert BaseModel.objects.get().config["is_missing"]
    (models_dir.parent / "elsewhere").rename(folder)
    models_sync()
    assert not BaseModel.objects.get().config.get("is_missing")


@pytest.mark.parametrize("damage", [b"", b"\xff" * 8, struct.pack("<Q", 5) + b"{nope", b"short"])
def test_a_damaged_head_is_no_error(models_dir: Path, damage: bytes) -> None:
    (_folder(models_dir, "tiny") / "model.safetensors").write_bytes(damage)
    models_sync()
    assert BaseModel.objects.get().config["parameters"] == 0


def test_a_damaged_config_is_no_error(models_dir: Path) -> None:
    (_folder(models_dir, "tiny") / "config.json").write_text("[1, 2")
    models_sync()
    assert BaseModel.objects.get().config["layers"] is None


def test_sentence_models_are_embeddings(models_dir: Path) -> None:
    (_folder(models_dir, "minilm", family="encoder") / "modules.json").write_text("[]")
    models_sync()
    assert BaseModel.objects.get().family == "embedding"


def test_a_model_says_who_serves_it_and_what_grew_on_it(
    client_of: SignIn, viewer: Any, team: Team, models_dir: Path, tmp_path: Path, beats: list[dict[str, Any]]
) -> None:
    _folder(models_dir, "tiny", shapes={"a": [1000, 1000]}, fingerprint="abcdef0123" + "0" * 54)
    published(team, tmp_path / "out")
    beats.append({"id": "e", "base": "tiny", "device": "cpu", "slots": 4, "state": "ready", "rows": [{}], "queue": 2})
    page = client_of(viewer).get(reverse("models:index")).content.decode()
    for text in ("tiny", "abcdef01", "1.0 M", "4.0 MB", "answers as", "1 adapter", "1 of 4", reverse("engines:index")):
        assert text in page


def test_the_page_stands_when_redis_is_down(
    client_of: SignIn, viewer: Any, monkeypatch: pytest.MonkeyPatch, models_dir: Path
) -> None:
    _folder(models_dir, "tiny")
    monkeypatch.setattr(stream, "engines", _redis_is_down)
    monkeypatch.setattr(stream, "setup_progress", _redis_is_down)
    response = client_of(viewer).get(reverse("models:index"))
    assert response.status_code == 200 and "No engine has been heard of" in response.content.decode()


def test_set_up_shows_its_bar_and_asks_again(client_of: SignIn, viewer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    progress = {"state": "running", "text": "converting", "done": 3, "total": 8, "share": 37.5}
    monkeypatch.setattr(stream, "setup_progress", lambda: progress)
    page = client_of(viewer).get(reverse("models:setup")).content.decode()
    assert "converting" in page and 'width="37.5%"' in page and "every 2s" in page


def test_set_up_that_failed_says_why_and_stops_asking(
    client_of: SignIn, viewer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = {"state": "failed", "text": "the index does not answer", "done": 0, "total": 8, "share": 0.0}
    monkeypatch.setattr(stream, "setup_progress", lambda: progress)
    page = client_of(viewer).get(reverse("models:setup")).content.decode()
    assert "the index does not answer" in page and "every 2s" not in page


def test_a_page_that_waited_is_loaded_anew_when_the_models_are_there(client_of: SignIn, viewer: Any) -> None:
    assert client_of(viewer).get(reverse("models:setup")).headers["HX-Refresh"] == "true"


@pytest.mark.parametrize("name", ["index", "engine", "setup"])
def test_the_pages_are_only_read(client_of: SignIn, admin: Any, name: str) -> None:
    assert client_of(admin).post(reverse(f"models:{name}")).status_code == 405
