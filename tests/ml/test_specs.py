"""Every bound of every field of a training spec, and the rules that join them; iterates the table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from ml.errors import SpecError
from ml.specs import COMMON_FIELDS, METHODS, Field, check_fits, common_fields_for, serving_form, train_spec

NAMES = {"base": "tiny-llama", "dataset": "colours@1", "dataset_sha256": "a" * 64}
FIELDS = [
    *(("lora", False, f) for f in COMMON_FIELDS),
    *((m.name, True, f) for m in METHODS.values() for f in m.fields),
]
ids = [f"{method}-{field.name}" for method, _, field in FIELDS]
every_field = pytest.mark.parametrize(("method", "is_own", "field"), FIELDS, ids=ids)


def spec_with(method: str, is_own: bool, field: Field, value: Any) -> Any:
    given: dict[str, Any] = {"method": method, **NAMES, "micro_batch_size": 1}
    if is_own:
        given["options"] = {field.name: value}
    else:
        given[field.name] = value
    return train_spec(given)


def allowed(field: Field) -> Iterator[Any]:
    """The edges of what the field may be."""
    if field.kind == "bool":
        yield from (True, False)
    elif field.kind == "choice":
        yield from (choice for choice in field.choices if choice != "text")
    elif field.kind == "text":
        yield from (field.default, "x" * int(field.high or 10))
    else:
        yield from (field.low, field.high)


def refused(field: Field) -> Iterator[Any]:
    """Just beyond them, and of another type."""
    if field.kind in ("bool", "choice"):
        yield from ("perhaps", 7, [])
    elif field.kind == "text":
        yield from (7, None, "x" * (int(field.high or 0) + 1))
    else:
        step = 1 if field.kind == "int" else 1e-9
        assert field.low is not None and field.high is not None, "every number has both bounds"
        yield from (field.low - step, field.high * 1.01 + step, math.nan, math.inf, -math.inf, "many", None, True, [])
        if field.kind == "int":
            yield field.low + 0.5


@every_field
def test_a_field_takes_its_default_and_its_edges(method: str, is_own: bool, field: Field) -> None:
    for value in (field.default, *allowed(field)):
        spec = spec_with(method, is_own, field, value)
        got = spec.options[field.name] if is_own else getattr(spec, field.name)
        assert got == value or field.name == "micro_batch_size"


@every_field
def test_a_field_refuses_what_lies_beyond_and_names_itself(method: str, is_own: bool, field: Field) -> None:
    for value in refused(field):
        with pytest.raises(SpecError) as caught:
            spec_with(method, is_own, field, value)
        assert caught.value.field == field.name
        assert caught.value.message.startswith(field.label)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_methods_own_defaults_are_within_bounds_and_known(method: str) -> None:
    known = {field.name for field in COMMON_FIELDS}
    assert set(METHODS[method].defaults) <= known
    for field in common_fields_for(METHODS[method]):
        assert field.check(field.default) == field.default


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_says_why_for_each_family_and_task_that_it_cannot_have(method: str) -> None:
    row = METHODS[method]
    lacking = {"decoder", "encoder", "encoder_decoder"} - set(row.families)
    lacking |= {"classification", "generation"} - set(row.tasks)
    assert set(row.not_for) == lacking


def test_unknown_keys_and_options_are_named() -> None:
    with pytest.raises(SpecError, match="Unknown keys in the spec: stepz"):
        train_spec({"method": "lora", **NAMES, "stepz": 3})
    with pytest.raises(SpecError, match="Unknown options of LoRA: k") as caught:
        train_spec({"method": "lora", **NAMES, "options": {"k": 3}})
    assert "rank" in caught.value.hint


@pytest.mark.parametrize("given", [None, [], "lora", 3])
def test_a_spec_that_is_no_object_is_refused(given: Any) -> None:
    with pytest.raises(SpecError, match="must be an object"):
        train_spec(given)


def test_an_unknown_method_is_answered_with_the_list() -> None:
    with pytest.raises(SpecError, match="Unknown method 'lorra'") as caught:
        train_spec({"method": "lorra", **NAMES})
    assert all(name in caught.value.hint for name in METHODS)


def test_checkpointing_and_prefix_tuning_exclude_each_other() -> None:
    with pytest.raises(SpecError, match="does not go with prefix-tuning"):
        train_spec({"method": "prefix_tuning", **NAMES, "gradient_checkpointing": True})


def test_starting_from_text_needs_a_text() -> None:
    with pytest.raises(SpecError, match="needs a text"):
        train_spec({"method": "prompt_tuning", **NAMES, "options": {"init": "text", "init_text": "  "}})


def test_rows_at_once_are_never_more_than_the_rows_of_a_step() -> None:
    assert train_spec({"method": "lora", **NAMES, "batch_size": 4, "micro_batch_size": 16}).micro_batch_size == 4


def test_free_answers_on_an_encoder_are_refused_before_the_technique_is_looked_at() -> None:
    with pytest.raises(SpecError, match="gives labels, not text"):
        check_fits(METHODS["head"], family="encoder", task="generation")


def test_dora_is_served_on_a_model_of_its_own() -> None:
    plain, dora = (train_spec({"method": "lora", **NAMES, "options": {"dora": on}}) for on in (False, True))
    assert (serving_form(plain), serving_form(dora)) == ("lora_delta", "own_backbone")


def test_a_spec_comes_back_from_what_it_says() -> None:
    for method in METHODS:
        spec = train_spec({"method": method, **NAMES})
        assert train_spec(spec.as_dict()) == spec
