"""What the documentation says about techniques and settings is what the code does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import doc_tables

API = Path(__file__).resolve().parents[1] / "docs" / "api.md"


@pytest.mark.parametrize("made", [doc_tables.techniques, doc_tables.settings, doc_tables.options])
def test_the_tables_of_the_api_page_are_those_of_the_code(made: Callable[[], str]) -> None:
    """After a change of ml/specs: `python -m tests.doc_tables`, and paste."""
    missing = [line for line in made().splitlines() if line not in API.read_text(encoding="utf-8").splitlines()]
    assert missing == []


def test_the_api_page_names_no_setting_that_is_gone() -> None:
    known = {line for made in (doc_tables.techniques, doc_tables.settings, doc_tables.options)
             for line in made().splitlines()}  # fmt: skip
    section = API.read_text(encoding="utf-8").split("## Start a training run")[1].split("\n## ")[0]
    assert [line for line in section.splitlines() if line.startswith("|") and line not in known] == []
