"""Evaluations as services and selectors: what is asked for, refused, published, compared and priced."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from jobs.evaluate_row import Item, Outcome, read_answer
from jobs.evaluation import command, requests_of
from ml.errors import ColdframeError, NotFoundError, SpecError
from ml.evaluate.answers import Answered, is_right
from tests.webapp import library
from tests.webapp.evaluating import LABELS, N_ROWS, data_version, published, submitted
from webapp import storage
from webapp.models import AuditEvent, DatasetVersion, Evaluation, EvaluationComparison, EvaluationRow, Outbox, Run
from webapp.selectors.adapters import alias_verdict
from webapp.selectors.evaluation_pairs import comparisons_with, disagreements, newest_pair, pair_of
from webapp.selectors.evaluation_rows import answered_row, rows_page
from webapp.selectors.evaluations import confusion_of, cost_of, evaluations_of, figure
from webapp.services.adapters import alias_move
from webapp.services.evaluations import prices_set
from webapp.services.prompts import prompt_create, version_create


@pytest.fixture(autouse=True)
def served(settings: Any) -> None:
    """The base model of the library's adapters is among those that have engines."""
    settings.BASE_MODELS = (settings.BASE_MODEL, "tiny")


@pytest.fixture
def version(team: Any, tmp_path: Path) -> Any:
    return data_version(team, tmp_path)


def test_an_evaluation_its_run_and_the_doorbell_are_written_together(team: Any, member: Any, version: Any):
    evaluation = submitted(team, member, version)
    assert evaluation.run is not None and evaluation.run.kind == Run.Kind.EVALUATE
    assert Outbox.objects.filter(run=evaluation.run).count() == 1
    assert (evaluation.subject, evaluation.split, evaluation.n_rows) == ("base", "test", N_ROWS)
    assert evaluation.spec["metrics"] == ["accuracy", "macro_f1", "ece"]
    assert AuditEvent.objects.get(action="evaluation.submit").subject == "base"


@pytest.mark.parametrize(
    ("given", "field", "said"),
    [
        ({"model": "nobody"}, "model", "no model 'nobody'"),
        ({"prompt": "nobody"}, "model", "no model"),
        ({"collection": "nobody"}, "collection", "no collection"),
        ({"split": "validation"}, "split", "no rows in the validation split"),
        ({"split": "all"}, "split", "A split is"),
        ({"n_rows": 0}, "rows", "from 1 to"),
        ({"n_rows": True}, "rows", "from 1 to"),
        ({"max_tokens": 10**9}, "max_tokens", "from 1 to"),
        ({"metrics": ["bleu"]}, "metrics", "compares texts"),
        ({"metrics": ["wit"]}, "metrics", "Unknown metric"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(
    given: dict[str, Any], field: str, said: str, team: Any, member: Any, version: Any
):
    with pytest.raises(ColdframeError, match=said) as caught:
        submitted(team, member, version, **given)
    assert caught.value.field == field
    assert not Run.objects.exists() and not Evaluation.objects.exists()


def test_a_data_set_of_one_label_is_not_measured(team: Any, member: Any, version: Any):
    """Whoever says the only label there is would be right every time."""
    DatasetVersion.objects.filter(pk=version.pk).update(labels=["billing"])
    with pytest.raises(SpecError, match="the same label, 'billing': there is nothing to measure") as caught:
        submitted(team, member, version)
    assert caught.value.field == "dataset"
    assert not Run.objects.exists()


def test_another_team_s_data_does_not_exist(other_team: Any, stranger: Any, version: Any):
    with pytest.raises(NotFoundError, match="No data set version"):
        submitted(other_team, stranger, version)


def test_a_prompt_and_a_prompt_are_one_too_many(team: Any, member: Any, version: Any):
    prompt_create(team=team, user=member, name="one", technique="zero_shot", template="{question}")
    with pytest.raises(SpecError, match="is a prompt already"):
        submitted(team, member, version, model="prompt:one", prompt="one")


def test_an_alias_is_pinned_to_the_version_that_it_names_now(team: Any, member: Any, version: Any, tmp_path: Path):
    library.published(team, tmp_path / "a", test=library.measured(0.8, 0.7, 0.9))
    evaluation = submitted(team, member, version, model="triage@production")
    assert evaluation.subject == "triage@1" and str(evaluation.adapter_version) == "triage@1"


def test_labels_are_scored_from_the_row_s_own_messages(team: Any, member: Any, version: Any):
    line = next(requests_of(submitted(team, member, version)))
    assert line["expected"] == LABELS[0] and line["row"] == 3
    request = line["request"]
    assert request["choices"] == LABELS and request["temperature"] == 0 and request["repetition_penalty"] == 1
    assert [m["role"] for m in request["messages"]] == ["system", "user"]
    assert request["messages"][1]["content"] == "Message: ticket number 3"


def test_a_prompt_brings_its_own_framing_in_place_of_the_data_set_s(team: Any, member: Any, version: Any):
    prompt_create(team=team, user=member, name="short", technique="zero_shot", system="Be short.",
                  template="T: {question}")  # fmt: skip
    request = next(requests_of(submitted(team, member, version, model="prompt:short")))["request"]
    assert request["messages"] == [
        {"role": "system", "content": "Be short."}, {"role": "user", "content": "T: ticket number 3"},
    ]  # fmt: skip
    assert request["choices"] == LABELS


def test_an_adapter_is_asked_in_a_prompt_s_words_when_both_are_named(
    team: Any, member: Any, version: Any, tmp_path: Path
):
    adapter = library.published(team, tmp_path / "a", test=library.measured(0.8, 0.7, 0.9))
    prompt_create(team=team, user=member, name="short", technique="zero_shot", template="T: {question}")
    evaluation = submitted(team, member, version, model="triage", prompt="short")
    request = next(requests_of(evaluation))["request"]
    assert evaluation.subject == "triage@1 + prompt:short@1"
    assert request["artifact"] == adapter.artifact and request["messages"][0]["content"] == "T: ticket number 3"


@pytest.mark.parametrize(
    ("model", "base"), [("prompt:short", "tiny"), ("base", "tiny"), ("smollm2-135m-instruct", "smollm2-135m-instruct")]
)
def test_a_prompt_is_measured_on_its_own_base_model_or_on_one_that_is_named(
    model: str, base: str, team: Any, member: Any, version: Any
):
    prompt_create(team=team, user=member, name="short", technique="zero_shot", template="T: {question}",
                  base_model="tiny")  # fmt: skip
    evaluation = submitted(team, member, version, model=model, prompt="" if model.startswith("prompt") else "short")
    assert evaluation.base_name == base
    assert {line["request"]["base"] for line in requests_of(evaluation)} == {base}


def test_a_chain_of_thought_writes_before_it_answers(team: Any, member: Any, version: Any):
    prompt_create(team=team, user=member, name="steps", technique="chain_of_thought",
                  template="{question}\nThink step by step.")  # fmt: skip
    evaluation = submitted(team, member, version, model="prompt:steps")
    request = next(requests_of(evaluation))["request"]
    assert not request["choices"] and request["max_tokens"] == 128
    assert evaluation.spec["metrics"] == ["accuracy", "macro_f1"]


def test_texts_are_written_with_the_expected_one_scored(team: Any, member: Any, tmp_path: Path):
    version = data_version(team, tmp_path, task="generation", name="sums")
    evaluation = submitted(team, member, version, n_rows=3)
    assert evaluation.spec["metrics"][0] == "numeric" and "perplexity" in evaluation.spec["metrics"]
    lines = list(islice(requests_of(evaluation), 9))
    assert len(lines) == 3 and lines[0]["request"]["references"] == ["#### 3"]


def test_the_child_gets_its_requests_as_files(team: Any, member: Any, version: Any, tmp_path: Path):
    evaluation = submitted(team, member, version)
    assert evaluation.run is not None
    words = command(evaluation.run, tmp_path)
    assert words[1:] == ["-m", "jobs.evaluate", "--workdir", str(tmp_path)]
    assert len((tmp_path / "requests.jsonl").read_text().splitlines()) == N_ROWS
    assert json.loads((tmp_path / "spec.json").read_text())["labels"] == LABELS


def test_every_answer_that_counts_as_right_goes_to_the_child_and_onto_the_page(
    team: Any, member: Any, tmp_path: Path, client_of: Any
):
    version = data_version(team, tmp_path, task="question_answering", name="questions")
    path = storage.path_of(version.storage_key) / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "answers": [row["completion"], "another"]}) + "\n" for row in rows))
    evaluation = submitted(team, member, version)
    lines = list(requests_of(evaluation))
    assert all(line["answers"] == [line["expected"], "another"] for line in lines)
    line = read_answer(Item(**lines[0]), Outcome(text="another"), {"labels": []})
    assert is_right(Answered.from_dict(line), "exact_match")
    assert answered_row(EvaluationRow(), line).others == "another"


def test_publishing_twice_leaves_one_set_of_figures(team: Any, member: Any, version: Any, tmp_path: Path):
    evaluation = published(submitted(team, member, version), tmp_path, n_right=9)
    published(evaluation, tmp_path, n_right=9)
    assert evaluation.metrics["accuracy"] == 0.75 and evaluation.figures["n_right"] == 9
    assert EvaluationRow.objects.filter(evaluation=evaluation).count() == N_ROWS
    shown = figure(evaluation)
    assert shown is not None and shown.measure is not None
    assert shown.measure.low < 0.75 < shown.measure.high


def test_rows_are_narrowed_to_errors_and_to_a_cell_of_the_confusions(
    team: Any, member: Any, version: Any, tmp_path: Path
):
    evaluation = published(submitted(team, member, version), tmp_path, n_right=9)
    assert [row.index.row for row in rows_page(evaluation, {"show": "wrong"})] == [12, 13, 14]
    assert [row.error for row in rows_page(evaluation, {"show": "error"})] == ["too long"]
    cell = rows_page(evaluation, {"expected": "0", "got": "1"})
    assert [(row.expected, row.got) for row in cell] == [("billing", "moving")]
    assert cell.rows[0].question == "Message: ticket number 12"
    confusion = confusion_of(evaluation)
    assert confusion is not None and confusion.has_unread
    assert sum(c.n for _, cells in confusion.rows for c in cells) == N_ROWS


def test_two_on_the_same_rows_are_compared_pair_by_pair(team: Any, member: Any, version: Any, tmp_path: Path):
    old = published(submitted(team, member, version), tmp_path, n_right=2)
    new = published(submitted(team, member, version), tmp_path, n_right=11)
    pair = pair_of(team=team, left=new.pk, right=old.pk)
    found = pair.differences[0]
    assert (found.name, found.says) == ("accuracy", "left") and found.difference == pytest.approx(0.75)
    assert found.mcnemar is not None and found.mcnemar["only_left"] == 9
    turned = pair_of(team=team, left=old.pk, right=new.pk).differences[0]
    assert turned.says == "right" and turned.low == pytest.approx(-found.high)  # type: ignore[operator]
    assert turned.mcnemar is not None and turned.mcnemar["only_right"] == 9
    assert [p.right.pk for p in comparisons_with(new)] == [old.pk]
    assert len(disagreements(pair, {"show": "left"}).rows) == 9
    assert disagreements(pair, {"show": "right"}).rows == []
    assert len(disagreements(pair, {"show": "both"}).rows) == 1


def test_a_calibration_error_is_better_when_it_is_lower(team: Any, member: Any, version: Any, tmp_path: Path):
    published(submitted(team, member, version), tmp_path, n_right=2)
    good = published(submitted(team, member, version), tmp_path, n_right=12)
    differences = {d.name: d for d in comparisons_with(good)[0].differences}
    assert differences["ece"].difference < 0 and differences["ece"].says == "left"  # type: ignore[operator]


def test_evaluations_of_other_rows_are_not_compared(team: Any, member: Any, version: Any, tmp_path: Path):
    one = published(submitted(team, member, version), tmp_path)
    other = data_version(team, tmp_path, name="other")
    two = published(submitted(team, member, other), tmp_path)
    assert not EvaluationComparison.objects.exists()
    with pytest.raises(NotFoundError, match="cannot be compared"):
        pair_of(team=team, left=one.pk, right=two.pk)


def _two_versions(team: Any, tmp_path: Path) -> tuple[Any, Any]:
    """Their own runs say that they are tied."""
    block = library.measured(0.8, 0.7, 0.9)
    return tuple(library.published(team, tmp_path / name, test=block, x__txt=name.encode()) for name in "ab")  # type: ignore[return-value]


@pytest.mark.parametrize(("n_new", "n_old", "is_held_back"), [(11, 2, False), (2, 11, True), (8, 8, True)])
def test_production_moves_by_the_evaluation_of_both_on_the_same_rows(
    n_new: int, n_old: int, is_held_back: bool, team: Any, member: Any, version: Any, tmp_path: Path
):
    old, new = _two_versions(team, tmp_path)
    assert alias_verdict(version=new, incumbent=old).is_held_back
    for subject, n_right in ((old, n_old), (new, n_new)):
        published(submitted(team, member, version, model=str(subject)), tmp_path, n_right=n_right)
    verdict = alias_verdict(version=new, incumbent=old)
    assert verdict.is_held_back is is_held_back and "same 12 test rows of tickets@1" in verdict.text
    if is_held_back:
        with pytest.raises(ColdframeError, match="held back"):
            alias_move(version=new, name="production", user=member)
    else:
        assert alias_move(version=new, name="production", user=member).version == new


def test_an_adapter_s_figure_with_a_prompt_says_nothing_about_the_adapter_alone(
    team: Any, member: Any, version: Any, tmp_path: Path
):
    old, new = _two_versions(team, tmp_path)
    prompt_create(team=team, user=member, name="short", technique="zero_shot", template="{question}")
    for subject, n_right in ((old, 2), (new, 11)):
        published(submitted(team, member, version, model=str(subject), prompt="short"), tmp_path, n_right=n_right)
    assert newest_pair(new, old) is None and alias_verdict(version=new, incumbent=old).is_held_back


def test_a_prompt_s_figure_is_its_newest_evaluation_by_itself_on_test_rows(
    team: Any, member: Any, version: Any, tmp_path: Path
):
    prompt = prompt_create(team=team, user=member, name="short", technique="zero_shot", template="{question}")
    evaluation = published(submitted(team, member, version, model="prompt:short"), tmp_path, n_right=9)
    prompt.refresh_from_db()
    assert prompt.metrics["test"]["accuracy"] == 0.75
    assert [found.pk for found in evaluations_of(prompt)] == [evaluation.pk]


def test_what_a_prompt_reaches_on_another_base_model_is_not_its_figure_and_moves_no_alias(
    team: Any, member: Any, version: Any, tmp_path: Path
):
    old = prompt_create(team=team, user=member, name="short", technique="zero_shot", template="{question}")
    new = version_create(prompt=old.prompt, user=member, technique="zero_shot", template="T: {question}")
    for number, model, n_right in ((1, "base", 2), (2, "tiny", 11)):
        published(submitted(team, member, version, model=model, prompt=f"short@{number}"), tmp_path, n_right=n_right)
    new.refresh_from_db()
    assert not new.metrics and newest_pair(new, old) is None
    published(submitted(team, member, version, model="prompt:short@2"), tmp_path, n_right=11)
    assert newest_pair(new, old) is not None


def test_a_thousand_requests_cost_what_the_team_s_prices_say(team: Any, admin: Any, version: Any, tmp_path: Path):
    evaluation = published(submitted(team, admin, version), tmp_path)
    assert cost_of(evaluation) is None
    prices_set(team=team, user=admin, currency="eur", tokens_in="0.5", tokens_out=2)
    evaluation.team.refresh_from_db()
    cost = cost_of(evaluation)
    assert cost is not None and (cost.currency, cost.per_thousand) == ("EUR", pytest.approx(0.018))


@pytest.mark.parametrize(
    ("given", "field"),
    [({"currency": "euro"}, "currency"), ({"tokens_in": "nan"}, "tokens_in"), ({"tokens_out": -1}, "tokens_out")],
)
def test_prices_that_are_none_are_refused(given: dict[str, Any], field: str, team: Any, admin: Any):
    with pytest.raises(SpecError) as caught:
        prices_set(team=team, user=admin, **{"currency": "EUR", "tokens_in": 1, "tokens_out": 1, **given})
    assert caught.value.field == field
