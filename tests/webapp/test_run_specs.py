"""A spec that is kept, brought back, or cloned: nothing is dropped in silence, and what differs is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from ml.errors import SpecError
from ml.specs import COMMON_FIELDS, METHODS, train_spec
from tests.webapp.run_forms import bases, filled, own, version_of
from webapp.models import DatasetVersion, Run, Team
from webapp.selectors.run_specs import MAX_BYTES, changes, spec_of_text
from webapp.services import runs as services
from webapp.services.runs import training_submit

ClientOf = Callable[[Any], Client]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, db: None) -> None:
    monkeypatch.setattr(services, "enqueue", lambda kind, run_id: None)
    bases()


@pytest.fixture
def version(team: Team) -> DatasetVersion:
    return version_of(team)


def unusual(method: str) -> dict[str, Any]:
    """A spec in which every setting differs from its default, or nearly."""
    row = METHODS[method]

    def other(field: Any) -> Any:
        if field.kind == "bool":
            return not field.default
        if field.kind == "choice":
            return field.choices[-1]
        if field.kind == "text":
            return "attention, w"
        return field.default / 2 if field.kind == "float" else field.default + 1

    spec = {field.name: other(field) for field in COMMON_FIELDS} | {"gradient_checkpointing": False}
    return {**spec, "method": method, "base": "tiny", "options": {field.name: other(field) for field in row.fields}}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_goes_through_file_and_form_unchanged(
    client_of: ClientOf, member: Any, team: Team, version: DatasetVersion, method: str
) -> None:
    """Started by the API, cloned, kept as a file, loaded, started: the same spec, for every technique."""
    run = training_submit(team=team, user=member, adapter="ada", dataset_version_id=version.pk, given=unusual(method))
    client = client_of(member)
    form = client.get(f"/runs/new/?clone={run.pk}").context["form"]
    values = {n: form[n].value() for n in form.fields if form[n].value() not in (None, False) or form[n].value() == 0}
    file = client.post("/runs/new/spec/", {k: v for k, v in values.items() if v is not False})
    assert file.status_code == 200 and file.headers["Content-Disposition"].endswith('"ada.run.yaml"')
    page = client.post("/runs/new/load/", {"file": SimpleUploadedFile("run.yaml", file.content)})
    assert page.status_code == 200 and not page.context["load_problems"]
    bound = page.context["form"]
    assert bound.is_valid()
    kept = train_spec({**bound.given, "dataset": "intents@1", "dataset_sha256": version.sha256}).as_dict()
    assert kept == {name: value for name, value in run.spec.items() if name not in ("kind", "adapter")}


def test_the_file_is_what_the_api_takes(client_of: ClientOf, member: Any, version: DatasetVersion) -> None:
    client = client_of(member)
    spec = yaml.safe_load(client.post("/runs/new/spec/", filled(client)).content)
    assert spec["dataset"] == "intents@1" and spec["method"] == next(iter(METHODS))
    assert {field.name for field in COMMON_FIELDS} <= set(spec)


def test_a_spec_that_cannot_be_is_not_kept(client_of: ClientOf, member: Any, version: DatasetVersion) -> None:
    client = client_of(member)
    answer = client.post("/runs/new/spec/", filled(client, **{own("steps"): "none"}))
    assert answer.status_code == 422 and "whole number" in answer.content.decode()


def load(client: Client, text: str) -> tuple[int, list[str], str]:
    answer = client.post("/runs/new/load/", {"spec": text})
    return answer.status_code, answer.context.get("load_problems", []), answer.content.decode()


def test_every_unknown_key_is_named_with_the_nearest_one(
    client_of: ClientOf, member: Any, version: DatasetVersion
) -> None:
    text = "method: lora\nlerning_rate: 1\nstep: 5\noptions: {rang: 4}\n"
    status, problems, page = load(client_of(member), text)
    assert status == 422 and len(problems) == 3
    assert "Did you mean learning_rate?" in problems[0] and "Did you mean steps?" in problems[1]
    assert "option of LoRA" in problems[2] and "rang" in page and not Run.objects.exists()


def test_every_bad_value_is_named_and_stays_in_its_input(
    client_of: ClientOf, member: Any, version: DatasetVersion
) -> None:
    text = "method: lora\nsteps: many\nseed: -1\nkeep_best: perhaps\neval_rows: [1]\noptions: {rank: 0}\n"
    status, problems, page = load(client_of(member), text)
    assert status == 422 and any("perhaps" in p for p in problems) and any("[1]" in p for p in problems)
    assert 'value="many"' in page and "LoRA rank must be ≥ 1" in page and "Seed must be ≥ 0" in page


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dataset: letters@3", "no data set version"),
        ("dataset: secret@1", "no data set version"),
        ("dataset: intents@1\ndataset_sha256: bbbb", "other rows"),
        ("method: magic", "magic"),
        ("steps: 5", "no method"),
        ("method: lora\noptions: 7", "options must be"),
    ],
)
def test_names_that_lead_nowhere_are_said(
    client_of: ClientOf, member: Any, version: DatasetVersion, other_team: Team, text: str, said: str
) -> None:
    version_of(other_team, "secret")
    status, problems, page = load(client_of(member), text)
    assert status == 422 and any(said in problem for problem in problems) and "secret@1 –" not in page


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "nothing"), ("- 1\n- 2", "list"), ("just words", "str"), ("a: [1", "neither YAML nor JSON"),
        ("a: &x [1]\nb: *x", "aliases"), ("steps: 1\nsteps: 2", "twice"), ('{"steps": 1, "steps": 2}', "twice"),
        ("!!python/object/apply:os.system ['x']", "neither YAML nor JSON"), ("[" * 30_000, "nested"),
        ("a: " + "1" * MAX_BYTES, "64 kB"), ("a: " + "9" * 5000, "neither"), (b"\xff\xfe\x00a", "UTF-8"),
    ],
)  # fmt: skip
def test_texts_that_are_no_spec_are_refused_in_plain_words(text: str | bytes, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_of_text(text)
    assert said in caught.value.message


def test_what_was_pasted_stays_when_it_cannot_be_read(
    client_of: ClientOf, member: Any, version: DatasetVersion
) -> None:
    status, _, page = load(client_of(member), "steps: [5")
    assert status == 422 and "steps: [5</textarea>" in page and 'id="load" open' in page


def test_json_is_read_as_well(client_of: ClientOf, member: Any, version: DatasetVersion) -> None:
    answer = client_of(member).post("/runs/new/load/", {"spec": '{"method": "lora", "steps": 7}'})
    assert answer.status_code == 200 and answer.context["form"]["lora-steps"].value() == 7


def test_markup_in_a_spec_is_never_markup(client_of: ClientOf, member: Any, version: DatasetVersion) -> None:
    _, _, page = load(client_of(member), 'method: lora\n"<script>alert(1)</script>": 1\nseed: "<img src=x>"\n')
    assert "<script>alert" not in page and "<img src=x" not in page


@pytest.fixture
def run(team: Team, version: DatasetVersion, member: Any) -> Run:
    given = {"method": next(iter(METHODS)), "base": "tiny", "steps": 10}
    return training_submit(team=team, user=member, adapter="ada", dataset_version_id=version.pk, given=given)


def test_a_clone_says_what_differs_and_a_plain_one_that_nothing_does(
    client_of: ClientOf, member: Any, run: Run
) -> None:
    client = client_of(member)
    answer = client.get(f"/runs/new/?clone={run.pk}")
    assert "it would be the same run once more" in answer.content.decode()
    values = {n: answer.context["form"][n].value() for n in answer.context["form"].fields}
    values = {n: v for n, v in values.items() if v is not None and v is not False}
    changed = {**values, "clone": run.pk, own("steps"): "33", "keep_best": ""}
    page = client.post("/runs/new/preview/", changed).content.decode()
    assert f"/runs/{run.pk}/" in page and "<del>10</del> <ins>33</ins>" in page
    assert page.count("<dt>") - page.split("cf-changes")[0].count("<dt>") == 2


def test_another_technique_is_named_and_not_every_option_of_it(run: Run) -> None:
    second = list(METHODS.values())[1]
    spec = {**run.spec, "method": second.name, "options": {f.name: f.default for f in second.fields}}
    found = changes(run, spec)
    assert [(c.label, c.after) for c in found] == [("Technique", second.label)]


def test_a_setting_that_an_old_run_did_not_have_counts_from_its_default(run: Run) -> None:
    old = {name: value for name, value in run.spec.items() if name != "patience"}
    Run.objects.filter(pk=run.pk).update(spec=old)
    run.refresh_from_db()
    assert changes(run, {**old, "patience": 0}) == []
    assert [c.before for c in changes(run, {**old, "patience": 4})] == [0]


def test_another_teams_run_cannot_be_cloned_by_any_way(client_of: ClientOf, stranger: Any, run: Run) -> None:
    client = client_of(stranger)
    assert client.get(f"/runs/new/?clone={run.pk}").status_code == 404
    assert client.post("/runs/new/preview/", {"clone": run.pk}).status_code == 404


def test_viewers_load_and_keep_no_specs(client_of: ClientOf, viewer: Any, version: DatasetVersion) -> None:
    client = client_of(viewer)
    assert client.post("/runs/new/load/", {"spec": "steps: 1"}).status_code == 403
    assert client.post("/runs/new/spec/", {}).status_code == 403
    assert client.get("/runs/new/load/").status_code in (403, 405)


def test_an_earlier_run_of_the_team_can_be_started_from_and_no_other(
    client_of: ClientOf, member: Any, run: Run, other_team: Team, stranger: Any
) -> None:
    given = {"method": run.spec["method"], "base": "tiny"}
    foreign = version_of(other_team, "secret")
    training_submit(team=other_team, user=stranger, adapter="offlimits", dataset_version_id=foreign.pk, given=given)
    page = client_of(member).get("/runs/new/").content.decode()
    assert f'<option value="{run.pk}">ada #{run.pk}' in page and "offlimits" not in page
