"""One folder of tiny models for all tests of methods."""

from __future__ import annotations

import pytest

from tests.ml.methods.building import Shapes


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    return Shapes(tmp_path_factory.mktemp("shapes"))
