"""Packages as mere files, by a real pip that knows one folder and no network."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from ml.backbone import sha256_of
from ml.errors import ModelError, UnavailableError
from ml.packages import check_pinned, fetch_package

PROJECT = """[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "tiny-source"
version = "1.0"
"""
BACKEND = """import pathlib
def prepare_metadata_for_build_wheel(folder, settings=None):
    made = pathlib.Path(folder, "tiny_source-1.0.dist-info")
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\\nName: tiny-source\\nVersion: 1.0\\n")
    return made.name
def build_wheel(*_):
    raise RuntimeError("built")
"""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that holds the sources of tiny-source 1.0, which do not build."""
    project, folder = tmp_path / "tiny_source-1.0", tmp_path / "index"
    project.mkdir()
    folder.mkdir()
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "backend.py").write_text(BACKEND)
    (project / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: tiny-source\nVersion: 1.0\n")
    with tarfile.open(folder / "tiny_source-1.0.tar.gz", "w:gz") as archive:
        archive.add(project, project.name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_sources_are_fetched_and_not_built(index: Path, tmp_path: Path) -> None:
    found = fetch_package("tiny-source", "1.0", tmp_path / "into", is_source=True)
    assert found == tmp_path / "into" / "tiny_source-1.0.tar.gz"
    check_pinned(found, sha256_of(index / found.name))
    with pytest.raises(ModelError, match="is not the pinned file"):
        check_pinned(found, "0" * 64)


def test_sources_are_not_taken_for_a_wheel(index: Path, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"tiny-source==1\.0 cannot be fetched: ERROR: No matching"):
        fetch_package("tiny-source", "1.0", tmp_path / "into")
