"""Names that people type and API clients send."""

from __future__ import annotations

import pytest

from ml.errors import SpecError
from webapp.names import name_check


@pytest.mark.parametrize(
    "name", ["", "Support", "a b", "../x", "-x", "x" * 81, "ä", "7", "base", "a@1", "prompt:x", None]
)
def test_names_that_cannot_be_typed_or_mean_something_else_are_refused(name: str | None) -> None:
    with pytest.raises(SpecError):
        name_check(name)


def test_a_good_name_comes_back_without_its_white_space() -> None:
    assert name_check(" support-triage_2 ") == "support-triage_2"


def test_a_refusal_names_what_was_typed_and_what_would_do() -> None:
    with pytest.raises(SpecError) as caught:
        name_check("Support Triage", field="adapter")
    assert "'Support Triage'" in caught.value.message
    assert caught.value.hint == "Try support-triage."
    assert caught.value.field == "adapter"
