"""`python -m ml plan`: from a configuration alone, for people and for programs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from ml.__main__ import main
from tests.ml.conftest import save_tiny_llama
from tests.ml.running import Recorder, tiny_spec


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = save_tiny_llama(tmp_path / "models" / "tiny-llama")
    for path in folder.glob("*.safetensors"):
        path.unlink()
    return tmp_path / "models"


def spec_file(tmp_path: Path, **changes: Any) -> str:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(tiny_spec(**changes).as_dict()), encoding="utf-8")
    return str(path)


def test_a_folder_without_weights_is_enough(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = Recorder()
    assert main(["plan", spec_file(tmp_path), "--models", str(models), "--device", "cpu"], said) == 0  # type: ignore[arg-type]
    event = said.named("plan")[0]
    assert event["total"] == sum(event[part] for part in ("runtime", "weights", "trainables", "gradients",
                                                          "optimizer", "activations", "buffers"))  # fmt: skip
    assert event["verdict"] in ("fits", "tight", "does_not_fit")
    assert "activations" in capsys.readouterr().err


def test_a_base_that_is_not_there_and_a_technique_without_labels_are_refused(models: Path, tmp_path: Path) -> None:
    words = ["--models", str(models), "--device", "cpu", "--json"]
    assert main(["plan", spec_file(tmp_path, base="nowhere"), *words], Recorder()) == 69  # type: ignore[arg-type]
    assert main(["plan", spec_file(tmp_path, method="head"), *words], Recorder()) == 64  # type: ignore[arg-type]
    assert main(["plan", *words], Recorder()) == 64  # type: ignore[arg-type]


def test_serving_answers_each_line_with_its_id(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = tiny_spec().as_dict(), {"method": "magic"}
    lines = [{"id": 1, "spec": good, "remedies": True}, {"id": 2, "spec": bad}, {"id": 3, "spec": good, "labels": 3}]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(json.dumps(line) + "\n" for line in lines)))
    said = Recorder()
    assert main(["plan", "--serve", "--models", str(models), "--device", "cpu"], said) == 0  # type: ignore[arg-type]
    first, second, third = said.named("plan")
    assert [first["id"], second["id"], third["id"]] == [1, 2, 3]
    assert first["total"] > 0 and "remedies" in first
    assert second["error"]["field"] == "method"
    assert third["total"] > 0
