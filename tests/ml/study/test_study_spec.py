"""Every bound of every field of a study's spec, and what it refuses; iterates the tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ml.errors import SpecError
from ml.specs import METHODS, Field
from ml.specs.measures import EVALUATION_METRICS
from ml.specs.study import MOST_SEEDS, STUDY_FIELDS, TECHNIQUES, metrics_for, study_spec, why_not_studied
from ml.specs.tasks import TASK_KINDS
from tests.ml.study.studying import NAMES, small_spec

MINIMAL = {**NAMES, "techniques": ["plain"]}
FAMILIES = ("decoder", "encoder", "encoder_decoder")


def allowed(field: Field) -> Iterator[Any]:
    """The edges of what the field may be."""
    if field.kind == "text":
        yield from ("", "x" * int(field.high or 0))
    else:
        yield from (field.low, field.high)


def refused(field: Field) -> Iterator[Any]:
    if field.kind == "text":
        yield from (7, None, "x" * (int(field.high or 0) + 1))
    else:
        yield from ((field.low or 0) - 1, (field.high or 0) + 1, "many", None, True, float("nan"))


def test_the_least_that_can_be_asked_for_gets_every_default() -> None:
    spec = study_spec(MINIMAL, task="classification")
    assert {f.name: getattr(spec, f.name) for f in STUDY_FIELDS} == {f.name: f.default for f in STUDY_FIELDS}
    assert (spec.metric, spec.seeds, spec.shares) == ("accuracy", (17,), ())


@pytest.mark.parametrize("field", STUDY_FIELDS, ids=lambda field: field.name)
def test_each_field_takes_its_edges_and_nothing_beyond(field: Field) -> None:
    for value in allowed(field):
        assert getattr(study_spec({**MINIMAL, field.name: value}, task="classification"), field.name) == value
    for value in refused(field):
        with pytest.raises(SpecError) as caught:
            study_spec({**MINIMAL, field.name: value}, task="classification")
        assert caught.value.field == field.name


def test_a_spec_is_the_same_after_a_round_trip() -> None:
    spec = small_spec(seeds=[3, 4], shares=[0.5, 0.1], techniques=["lora", "plain"])
    assert study_spec(spec.as_dict(), task="classification") == spec


def test_unknown_keys_are_refused_by_name() -> None:
    with pytest.raises(SpecError, match="Unknown keys in the study's spec: colour") as caught:
        study_spec({**MINIMAL, "colour": "blue"}, task="classification")
    assert caught.value.field == "colour"


@pytest.mark.parametrize("name", ["base", "dataset", "dataset_sha256"])
@pytest.mark.parametrize("value", ["", None, 7])
def test_names_are_needed_as_text(name: str, value: Any) -> None:
    with pytest.raises(SpecError) as caught:
        study_spec({**MINIMAL, name: value}, task="classification")
    assert caught.value.field == name


@pytest.mark.parametrize("given", [None, [], "lora", 3, ["magic"], [["lora"]], [None]])
def test_techniques_are_a_list_of_known_ones(given: Any) -> None:
    with pytest.raises(SpecError) as caught:
        study_spec({**NAMES, "techniques": given}, task="classification")
    assert caught.value.field == "techniques"


def test_a_technique_that_is_named_twice_is_studied_once_and_the_tables_order_counts() -> None:
    assert small_spec(techniques=["lora", "plain", "lora"]).techniques == ("plain", "lora")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", TASK_KINDS)
@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_technique_fits_or_says_why_not(name: str, task: str, family: str) -> None:
    reason = why_not_studied(name, task=task, family=family)
    if not reason:
        given = {**NAMES, "techniques": [name], "collection": "handbook"}
        assert study_spec(given, task=task, family=family).techniques == (name,)
        return
    with pytest.raises(SpecError) as caught:
        study_spec({**NAMES, "techniques": [name]}, task=task, family=family)
    assert (caught.value.message, caught.value.field) == (reason, "techniques")


@pytest.mark.parametrize(
    ("given", "said"),
    [({}, "names none"), ({"collection": ""}, "names none"), ({"collection": 7}, "named by text"),
     ({"collection": "a\x00"}, "named by text")],
)  # fmt: skip
def test_retrieval_needs_a_collection_and_the_others_none(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        small_spec(techniques=["plain", "retrieval"], **given)
    assert caught.value.field == "collection"
    assert small_spec(techniques=["plain"]).collection == ""


def test_only_a_decoder_is_asked_in_words_and_only_labels_have_a_head() -> None:
    assert not why_not_studied("plain", task="classification", family="encoder_decoder")
    assert "asks a decoder model in words" in why_not_studied("few_shot", task="generation", family="encoder_decoder")
    assert "cannot write free text" in why_not_studied("head", task="generation", family="decoder")


@pytest.mark.parametrize("task", TASK_KINDS)
def test_a_study_is_ranked_by_a_metric_of_its_task_for_which_higher_is_better(task: str) -> None:
    for name, metric in EVALUATION_METRICS.items():
        if name in metrics_for(task):
            assert metric.is_better_high
            assert study_spec({**MINIMAL, "metric": name}, task=task).metric == name
            continue
        with pytest.raises(SpecError) as caught:
            study_spec({**MINIMAL, "metric": name}, task=task)
        assert caught.value.field == "metric"


@pytest.mark.parametrize(
    "given", [[], "17", 17, [1, 1], [-1], [2**31], [1.5], ["x"], [None], list(range(MOST_SEEDS + 1))]
)
def test_seeds_are_a_few_whole_numbers_and_none_comes_twice(given: Any) -> None:
    with pytest.raises(SpecError) as caught:
        study_spec({**MINIMAL, "seeds": given}, task="classification")
    assert caught.value.field == "seeds"


@pytest.mark.parametrize(
    "given", ["half", 0.5, [0], [1], [-0.1], [1.5], ["0.5"], [True], [float("nan")], [0.99999999], [0.1] * 9]
)
def test_shares_are_above_none_and_below_all(given: Any) -> None:
    with pytest.raises(SpecError) as caught:
        study_spec({**MINIMAL, "shares": given}, task="classification")
    assert caught.value.field == "shares"


def test_shares_that_would_have_the_same_name_are_one() -> None:
    """A cell is kept under its share with six digits: two that differ beyond wrote the same file in turns."""
    assert small_spec(shares=[0.5, 0.25, 0.50000001]).shares == (0.25, 0.5)


@pytest.mark.parametrize("given", ["lora", 3, ["full"], [["lora"]]])
def test_the_curve_is_of_techniques_of_the_study(given: Any) -> None:
    with pytest.raises(SpecError) as caught:
        study_spec({**MINIMAL, "techniques": ["lora"], "curve_techniques": given}, task="classification")
    assert caught.value.field == "curve_techniques"


def test_every_method_is_a_technique_that_is_trained() -> None:
    assert {name for name, row in TECHNIQUES.items() if row.kind == "trained"} == set(METHODS)


@pytest.mark.parametrize("given", [None, [], "spec", 7])
def test_a_spec_that_is_no_object_is_refused(given: Any) -> None:
    with pytest.raises(SpecError, match="must be an object"):
        study_spec(given, task="classification")
