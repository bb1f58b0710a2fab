"""SECURITY.md rows 11 and 13: files that could run code, or lead outside, are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ml.errors import ArtifactError
from ml.foreign.listing import MAX_JSON_BYTES, check_listing, read_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "adapter_config.json").write_text("{}")
    (made / "adapter_model.safetensors").write_bytes(b"x")
    return made


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "x.pkl", "weights.PTH", "a.ckpt"])
def test_pickles_are_refused_and_say_what_to_save_instead(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\x80\x02.")
    with pytest.raises(ArtifactError, match="is a pickle") as caught:
        check_listing(folder)
    assert "safetensors" in caught.value.hint or "safe_serialization" in caught.value.hint


def test_a_trainers_leftovers_are_to_be_left_out(folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes(b"\x80")
    with pytest.raises(ArtifactError) as caught:
        check_listing(folder)
    assert caught.value.hint.startswith("Leave it out")


def test_a_gguf_is_refused_and_says_what_to_bring(folder: Path) -> None:
    (folder / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ArtifactError, match="is a GGUF file") as caught:
        check_listing(folder)
    assert "adapter_model.safetensors" in caught.value.hint


@pytest.mark.parametrize("name", ["modeling.py", "lib.so", "run.sh", "other.safetensors", "data.bin.exe"])
def test_whatever_does_not_belong_to_an_adapter_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    with pytest.raises(ArtifactError):
        check_listing(folder)


def test_harmless_files_are_passed_over_and_named(folder: Path) -> None:
    (folder / "README.md").write_text("# Card")
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 8}')
    (folder / "chat_template.jinja").write_text("{{ x }}")
    assert [notice.split()[0] for notice in check_listing(folder)] == ["chat_template.jinja", "tokenizer_config.json"]


@pytest.mark.parametrize("place", ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "C:\\x", "..", "a\\b"])
def test_an_index_that_points_outside_is_refused(folder: Path, place: str) -> None:
    index = {"weight_map": {"a": place}}
    (folder / "adapter_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ArtifactError, match="points outside the folder"):
        check_listing(folder)


@pytest.mark.parametrize("key", ["auto_map", "trust_remote_code"])
def test_a_configuration_that_asks_for_code_is_refused(folder: Path, key: str) -> None:
    value: Any = {"AutoModel": "evil.Model"} if key == "auto_map" else True
    (folder / "config.json").write_text(json.dumps({key: value}))
    with pytest.raises(ArtifactError, match="asks for code of its own"):
        check_listing(folder)


def test_a_link_is_refused(folder: Path) -> None:
    (folder / "README.md").symlink_to("/etc/hostname")
    with pytest.raises(ArtifactError, match="is a link"):
        check_listing(folder)


def test_a_folder_inside_is_refused(folder: Path) -> None:
    (folder / "checkpoint-1").mkdir()
    with pytest.raises(ArtifactError, match="not a plain file"):
        check_listing(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"has no {name}"):
        check_listing(folder)


def test_a_configuration_of_megabytes_is_not_read(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(" " * (MAX_JSON_BYTES + 1))
    with pytest.raises(ArtifactError, match="at most 1,048,576 are read"):
        read_json(folder / "adapter_config.json")
