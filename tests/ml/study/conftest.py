"""Fixtures of studies: tiny models of three families, an embedding model, and where small studies run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml.specs import METHODS
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
def quick_heads() -> Iterator[None]:
    """A head's own 300 steps are not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS["head"].defaults, "steps", 12)
        yield


@pytest.fixture(scope="session")
def studying(study_models: Path, tmp_path_factory: pytest.TempPathFactory, quick_heads: None) -> Studying:
    return Studying(study_models, tmp_path_factory.mktemp("studying"))
