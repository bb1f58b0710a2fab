"""Fixtures of studies: tiny models of three families, an embedding model, and where small studies run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ml.retrieval.conftest import save_tiny_bert
from tests.ml.study.studying import Studying
from tests.ml.tiny import save_tiny


@pytest.fixture(scope="session")
def study_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with `llama`, `bert`, `t5`, and `tiny-bert`, which embeds."""
    folder = tmp_path_factory.mktemp("study-models")
    for shape in ("llama", "bert", "t5"):
        save_tiny(folder / shape, shape)
    save_tiny_bert(folder / "tiny-bert")
    return folder


@pytest.fixture(scope="session")
def studying(study_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Studying:
    return Studying(study_models, tmp_path_factory.mktemp("studying"))
