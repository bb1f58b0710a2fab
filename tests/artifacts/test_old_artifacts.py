"""Adapters of every release load for ever, and say what they said when they were made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ml.artifact import read_manifest, verify
from ml.backbone import fingerprint_of
from ml.foreign import import_adapter
from ml.specs import METHODS
from tests.artifacts.base_model import HERE, NAME, answers, restore_base
from tests.artifacts.make import IMPORTED, release

SETS = sorted(path.parent for path in HERE.glob("*/logits.json"))
KEPT = [folder / name for folder in SETS for name in sorted(json.loads((folder / "logits.json").read_text()))]
kept = pytest.mark.parametrize("adapter", KEPT, ids=[f"{path.parent.name}-{path.name}" for path in KEPT])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return restore_base(tmp_path_factory.mktemp("models"))


def test_the_base_model_is_the_one_they_were_made_for(base: Path) -> None:
    """Its recipe gives the same bytes with every version of every library."""
    assert {read_manifest(adapter).base["fingerprint"] for adapter in KEPT} == {fingerprint_of(base)}


@kept
def test_it_loads_and_answers_as_it_did(adapter: Path, base: Path) -> None:
    wanted = json.loads((adapter.parent / "logits.json").read_text())[adapter.name]
    assert verify(adapter).base["name"] == NAME
    assert torch.allclose(torch.tensor(answers(base, adapter)), torch.tensor(wanted), atol=1e-4)


def test_adapters_of_different_techniques_answer_differently() -> None:
    """Else a loader that ignores the adapter would pass."""
    for folder in SETS:
        logits = json.loads((folder / "logits.json").read_text())
        assert len({str(rows) for rows in logits.values()}) == len(logits)


def test_this_release_has_one_of_every_technique() -> None:
    """When this fails: python -m tests.artifacts.make, and commit what it adds."""
    assert {path.name for path in KEPT if path.parent.name == release()} == {*METHODS, IMPORTED}


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.storage == "peft"])
def test_those_that_peft_knows_can_be_brought_in_again(name: str, base: Path, tmp_path: Path) -> None:
    """What somebody downloaded from an old server is uploaded to a new one."""
    for folder in SETS:
        if (folder / name).is_dir():
            into = tmp_path / folder.name
            import_adapter(folder / name, models_dir=base.parent, base=NAME, into=into)
            assert answers(base, into) == answers(base, folder / name)
