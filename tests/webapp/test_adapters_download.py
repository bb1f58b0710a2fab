"""The download: a zip made while it is sent, which plain peft loads."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import AsyncClient, Client
from django.urls import reverse

from ml.errors import ArtifactError
from tests.webapp.library import published
from webapp.archive import PIECE_BYTES, files_of, zip_pieces
from webapp.models import Team


def test_the_zip_holds_the_files_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 5000)
    (tmp_path / "b.txt").write_text("hello")
    data = b"".join(zip_pieces(files_of(tmp_path, ["a.bin", "b.txt"]), root="x-v1"))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None and archive.namelist() == ["x-v1/a.bin", "x-v1/b.txt"]
        assert archive.read("x-v1/a.bin") == bytes(range(256)) * 5000


def test_no_piece_is_much_larger_than_what_is_read_at_once(tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(b"\x00" * (PIECE_BYTES * 6 + 17))
    sizes = [len(piece) for piece in zip_pieces(files_of(tmp_path, ["large.bin"]), root="x")]
    assert len(sizes) >= 7 and max(sizes) <= PIECE_BYTES + 1024


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "missing.bin"])
def test_a_file_outside_the_folder_or_missing_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ArtifactError, match="is missing from the saved adapter"):
        files_of(folder, [name])


@pytest.fixture
def stored(settings: Any, tmp_path: Path) -> Path:
    settings.STORAGE_DIR = tmp_path / "storage"
    settings.STORAGE_DIR.mkdir()
    return tmp_path


def test_the_download_is_named_after_adapter_and_version(
    client_of: Callable[[Any], Client], viewer: Any, team: Team, stored: Path
) -> None:
    version = published(team, stored / "out")
    response = client_of(viewer).get(reverse("adapters:download", args=[version.adapter_id, 1]))
    assert response.headers["Content-Disposition"] == 'attachment; filename="triage-v1.zip"'
    with zipfile.ZipFile(io.BytesIO(b"".join(response))) as archive:
        assert sorted(archive.namelist()) == [
            f"triage-v1/{name}"
            for name in ("README.md", "adapter_config.json", "adapter_model.safetensors", "manifest.json")
        ]


def test_a_missing_artifact_is_an_error_and_no_half_zip(
    client_of: Callable[[Any], Client], viewer: Any, team: Team, stored: Path
) -> None:
    version = published(team, stored / "out")
    (stored / "storage" / version.storage_key / "adapter_model.safetensors").unlink()
    response = client_of(viewer).get(reverse("adapters:download", args=[version.adapter_id, 1]))
    assert response.status_code == 500 and "adapter_model.safetensors" in response.content.decode()


@pytest.mark.django_db(transaction=True)
async def test_an_asgi_server_streams_it_piece_by_piece(settings: Any, tmp_path: Path) -> None:
    """Django swallows a sync iterator whole under ASGI; ours must be async."""
    from asgiref.sync import sync_to_async
    from django.contrib.auth import get_user_model

    from webapp.models import Membership

    settings.STORAGE_DIR = tmp_path / "storage"
    settings.STORAGE_DIR.mkdir()

    def made() -> tuple[Any, Any]:
        team = Team.objects.create(slug="t", name="T")
        user = get_user_model().objects.create_user("v", password="a-long-password-1")
        Membership.objects.create(team=team, user=user, role="viewer")
        large = {"adapter_model__safetensors": b"\x01" * (PIECE_BYTES * 3)}
        return user, published(team, tmp_path / "out", **large)

    user, version = await sync_to_async(made)()
    client = AsyncClient()
    await client.aforce_login(user)
    response = await client.get(reverse("adapters:download", args=[version.adapter_id, 1]))
    assert response.is_async
    pieces = [piece async for piece in response]
    assert len(pieces) > 3 and zipfile.ZipFile(io.BytesIO(b"".join(pieces))).testzip() is None


def test_plain_peft_loads_the_unpacked_download(
    client_of: Callable[[Any], Client], viewer: Any, team: Team, stored: Path
) -> None:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    config = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=1)  # fmt: skip
    torch.manual_seed(0)
    base = LlamaForCausalLM(config)
    state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    trained = get_peft_model(
        base, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    )
    trained.save_pretrained(stored / "peft")
    files = {p.name.replace(".", "__"): p.read_bytes() for p in (stored / "peft").iterdir()}
    version = published(team, stored / "out", **files)
    response = client_of(viewer).get(reverse("adapters:download", args=[version.adapter_id, 1]))
    zipfile.ZipFile(io.BytesIO(b"".join(response))).extractall(stored / "unpacked")
    fresh = LlamaForCausalLM(config)
    fresh.load_state_dict(state)
    loaded = PeftModel.from_pretrained(fresh, str(stored / "unpacked" / "triage-v1"))
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded.eval()(ids).logits, trained.eval()(ids).logits)
