"""Examples out of a data set: only training rows, never held-out ones, the same draw each time."""

from __future__ import annotations

from typing import Any

import pytest
from django.urls import reverse

from ml.errors import DataError, SpecError
from ml.specs.questions import question_of
from tests.webapp.prompt_data import TEST, TRAIN, VALIDATION, stored
from webapp.models import DatasetVersion, Evaluation, PromptVersion, Team
from webapp.selectors.examples import fields_of, find_leaks, one_a_label, pool, random_examples, try_rows
from webapp.selectors.targets import resolve
from webapp.services.evaluations import evaluation_submit
from webapp.services.prompt_content import clean_check, content_check, content_resolve
from webapp.services.prompts import prompt_create


@pytest.fixture
def data(team: Team) -> DatasetVersion:
    return stored(team)


def check(**content: Any) -> dict[str, Any]:
    return content_resolve(content_check(**{"technique": "few_shot", "template": "{question}", **content}))


def test_a_question_is_the_row_without_the_data_sets_own_framing(data: DatasetVersion) -> None:
    assert [example.question for example in pool(data)] == [text for text, _ in TRAIN]


def test_a_row_framed_by_several_columns_is_asked_whole() -> None:
    mapping = {"format": "columns", "prompt": "{title}: {text}"}
    assert question_of(mapping, "Fir: tall") == "Fir: tall"


def test_a_training_row_that_also_stands_in_test_is_no_example(team: Team) -> None:
    data = stored(team, train=(*TRAIN, ("it is  DARK here.", "outage")))
    assert "it is  DARK here." not in {example.question for example in pool(data)}


def test_the_order_seed_fixes_rows_and_order(data: DatasetVersion) -> None:
    first = check(pick="random", k=4, order_seed=3, dataset=data)["examples"]
    assert first == check(pick="random", k=4, order_seed=3, dataset=data)["examples"]
    assert first != check(pick="random", k=4, order_seed=4, dataset=data)["examples"]
    assert {pair["row"] for pair in first} <= set(range(1, len(TRAIN) + 1))


def test_more_examples_than_training_rows_are_refused(data: DatasetVersion) -> None:
    with pytest.raises(SpecError, match="has 6 training rows, 9 examples are wanted"):
        check(pick="random", k=9, dataset=data)
    with pytest.raises(SpecError, match="6 training rows that may be examples, 7 are wanted"):
        random_examples(data, k=7, seed=1)


@pytest.mark.parametrize(("split", "text", "row"), [("test", TEST[1][0], 11), ("validation", VALIDATION[0][0], 7)])
def test_a_held_out_row_as_an_example_is_refused_as_leakage(
    data: DatasetVersion, split: str, text: str, row: int
) -> None:
    pairs = [{"question": "fine", "answer": "x"}, {"question": f" {text.upper()}", "answer": "x"}]
    with pytest.raises(
        DataError, match=f"Example 2 is row {row} of support@1, which is held out in its {split} split"
    ) as e:
        check(examples=pairs, dataset=data)
    assert e.value.code == "leakage" and "leakage" in e.value.hint


def test_leaks_of_many_questions_are_found_in_one_pass(data: DatasetVersion) -> None:
    assert find_leaks(data, [TEST[0][0], TRAIN[0][0], VALIDATION[2][0]]) == [(1, "test", 10), (3, "validation", 9)]


def test_one_example_a_label(data: DatasetVersion) -> None:
    assert sorted(example.answer for example in one_a_label(data, seed=1)) == ["billing", "internet", "outage"]


def test_rows_to_try_on_are_validation_rows(data: DatasetVersion) -> None:
    assert {example.question for example in try_rows(data)} == {text for text, _ in VALIDATION}


def test_a_placeholder_that_names_no_column_is_refused_by_name(data: DatasetVersion) -> None:
    assert fields_of(data) == ["question", "text"]
    with pytest.raises(SpecError, match=r"Unknown placeholder \{titel\}") as caught:
        content_check(technique="zero_shot", template="{text} {titel}", dataset=data)
    assert "{question}, {text}, {labels}" in caught.value.hint and "{{titel}}" in caught.value.hint


def test_a_placeholder_of_the_system_text_is_refused_by_name_too(data: DatasetVersion) -> None:
    with pytest.raises(SpecError, match=r"\{labels\} in the system text"):
        content_check(technique="zero_shot", template="{question}", system="One of {labels}")
    assert content_check(technique="zero_shot", template="{text}", system="One of {labels}", dataset=data)


def test_nearest_and_random_examples_need_a_data_set() -> None:
    for pick in ("nearest", "random"):
        with pytest.raises(SpecError, match="come from a data set"):
            content_check(technique="few_shot", template="{question}", pick=pick, k=3)


def test_a_prompt_for_labelled_data_is_asked_greedily_about_the_last_question_only(
    team: Team, data: DatasetVersion
) -> None:
    prompt_create(team=team, user=None, name="queue", technique="zero_shot", template="{text}: {labels}", dataset=data)
    target = resolve(team=team, name="queue")
    assert target.frame.picks_label and not target.frame.takes_history
    assert target.fold([{"role": "user", "content": "Dark"}])[-1]["content"] == "Dark: billing, internet, outage"


def test_a_version_keeps_what_was_drawn(team: Team, data: DatasetVersion) -> None:
    made = prompt_create(team=team, user=None, name="queue", technique="few_shot", template="{question}",
                         pick="random", k=2, order_seed=5, dataset=data)  # fmt: skip
    kept = PromptVersion.objects.get(pk=made.pk)
    assert (kept.pick, kept.k, kept.order_seed, len(kept.examples)) == ("random", 2, 5, 2)


def test_measuring_on_rows_that_the_prompt_shows_is_refused(team: Team, data: DatasetVersion) -> None:
    """Another version of the data with other splits holds training rows of the first in its test split."""
    turned = stored(team, name="turned", train=(*VALIDATION, *TEST), test=TRAIN, validation=())
    near, fixed = (
        prompt_create(team=team, user=None, name=name, technique="few_shot", template="{text}", dataset=data, **more)
        for name, more in (
            ("near", {"pick": "nearest", "k": 2}),
            ("fixed", {"examples": [{"question": TRAIN[2][0], "answer": "outage"}]}),
        )
    )
    for prompt in (near, fixed):
        clean_check(prompt=prompt, dataset=data, split="test")
        with pytest.raises(DataError, match="test split of turned@1 may be shown by") as caught:
            clean_check(prompt=prompt, dataset=turned, split="test")
        assert caught.value.code == "leakage"
    with pytest.raises(DataError, match="Row 1 and 5 more of the train split"):
        clean_check(prompt=near, dataset=data, split="train")


def test_a_prompt_without_examples_is_measured_anywhere(team: Team, data: DatasetVersion) -> None:
    made = prompt_create(team=team, user=None, name="bare", technique="zero_shot", template="{question}")
    for split in ("train", "validation", "test"):
        clean_check(prompt=made, dataset=data, split=split)


def test_an_evaluation_on_rows_that_the_prompt_shows_is_refused_before_anything_is_written(
    team: Team, data: DatasetVersion
) -> None:
    turned = stored(team, name="turned", train=TEST, test=TRAIN)
    prompt_create(team=team, user=None, name="near", technique="few_shot", template="{text}", dataset=data,
                  pick="nearest", k=2)  # fmt: skip
    with pytest.raises(DataError, match="Row 6 and 5 more of the test split of turned@1 may be shown by near@1"):
        evaluation_submit(team=team, user=None, model="near", dataset_version_id=turned.pk)
    assert not Evaluation.objects.exists()


def test_a_row_that_is_too_long_to_be_an_example_is_none(team: Team) -> None:
    data = stored(team, train=(*TRAIN, ("word " * 1000, "billing")))
    assert max(len(example.question) for example in pool(data)) < 100


def test_a_prompt_keeps_its_data_set_when_that_is_archived(client_of: Any, member: Any, data: DatasetVersion) -> None:
    made = prompt_create(
        team=data.team, user=None, name="queue", technique="zero_shot", template="{text}", dataset=data
    )
    data.dataset.is_archived = True
    data.dataset.save()
    url = reverse("prompts:new_version", args=[made.prompt_id])
    page = client_of(member).get(url).content.decode()
    assert f'<option value="{data.pk}" selected>support@1</option>' in page
    typed = {"technique": "zero_shot", "template": "Now {text}", "dataset": str(data.pk), "base": "1"}
    assert client_of(member).post(url, typed).status_code == 302
    assert made.prompt.versions.get(number=2).dataset_version == data
