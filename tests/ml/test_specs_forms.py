"""The groups that techniques stand in, and which artifacts the engine serves."""

from __future__ import annotations

from typing import get_args

import pytest

from ml.specs import GROUPS, METHODS, Family, Form, how_served, why_not_served


def test_every_technique_stands_in_exactly_one_group() -> None:
    assert sorted(method.name for group in GROUPS for method in group.methods) == sorted(METHODS)


def test_the_engine_serves_every_form_on_a_decoder_and_says_how() -> None:
    assert not any(why_not_served(form) for form in get_args(Form))
    assert "model of its own" in how_served("own_backbone") and "label" in how_served("head")
    assert {how_served(form) for form in ("plain", "prefix_kv", "lora_delta", "scale")} == {how_served("plain")}


@pytest.mark.parametrize("family", [family for family in get_args(Family) if family != "decoder"])
@pytest.mark.parametrize("form", get_args(Form))
def test_nothing_on_another_family_is_served_and_the_reason_names_it(form: str, family: str) -> None:
    assert family.replace("_", "-") in why_not_served(form, family)
