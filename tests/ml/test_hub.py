"""An upload puts exactly the folder's files on the hub; the token goes there and nowhere else."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml.__main__ import main
from ml.errors import SpecError, UnavailableError
from ml.foreign import import_adapter
from ml.hub import HubError, upload
from tests.ml.foreign.conftest import peft_model
from tests.ml.hub_server import Hub, running_hub
from tests.ml.running import Recorder

TOKEN = "hf_" + "secret" * 5


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on the loopback, online for this test."""
    with running_hub() as hub:
        for name, value in {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield hub


@pytest.fixture
def adapter(tiny_models_dir: Path, tiny_llama_dir: Path, tmp_path: Path) -> Path:
    peft_model(tiny_llama_dir, "lora").save_pretrained(tmp_path / "theirs")
    import_adapter(tmp_path / "theirs", models_dir=tiny_models_dir, base="tiny-llama", into=tmp_path / "adapter")
    return tmp_path / "adapter"


def test_every_file_arrives_byte_for_byte_in_a_private_repository(hub: Hub, adapter: Path) -> None:
    assert upload(adapter, repo="team/triage", token=TOKEN) == f"{hub.url}/team/triage"
    assert hub.files == {path.name: path.read_bytes() for path in adapter.iterdir()}
    assert hub.repos[0]["visibility"] == "private" and hub.tokens == {TOKEN}


def test_the_command_line_uploads_and_never_says_the_token(hub: Hub, adapter: Path) -> None:
    said, events = io.StringIO(), Recorder()
    handler = logging.StreamHandler(said)
    logging.getLogger().addHandler(handler)
    try:
        assert main(["upload", "--adapter", str(adapter), "--repo", "triage"], emit=events) == 0
        hub.status = 401
        assert main(["upload", "--adapter", str(adapter), "--repo", "triage"], emit=events) != 0
    finally:
        logging.getLogger().removeHandler(handler)
    assert events.named("finished")[0]["url"] == f"{hub.url}/me/triage"
    assert TOKEN not in said.getvalue() + str(events.events)


def test_a_merged_model_is_uploaded_whole(hub: Hub, adapter: Path, tiny_models_dir: Path) -> None:
    words = ["upload", "--adapter", str(adapter), "--repo", "triage", "--merged", "--models", str(tiny_models_dir)]
    assert main(words, emit=Recorder()) == 0
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(hub.files)


@pytest.mark.parametrize(
    ("status", "words"), [(401, "does not know this token"), (403, "does not let this token"), (404, "no place for")]
)
def test_a_refusal_of_the_hub_says_what_to_do(hub: Hub, adapter: Path, status: int, words: str) -> None:
    hub.status = status
    with pytest.raises(HubError, match=words) as caught:
        upload(adapter, repo="team/triage", token=TOKEN)
    assert caught.value.hint and TOKEN not in str(caught.value)


def test_a_hub_that_is_away_is_worth_another_try(hub: Hub, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UnavailableError, match="does not answer"):
        upload(adapter, repo="team/triage", token=TOKEN)


def test_an_impossible_name_is_refused_before_anything_is_sent(hub: Hub, adapter: Path) -> None:
    with pytest.raises(SpecError, match="no repository name"):
        upload(adapter, repo="a/b/c", token=TOKEN)
    assert not hub.repos


def test_without_a_token_nothing_is_tried(hub: Hub, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    events = Recorder()
    assert main(["upload", "--adapter", str(adapter), "--repo", "triage"], emit=events) == 64
    assert "HF_TOKEN" in events.named("failed")[0]["error"]["hint"] and not hub.tokens
