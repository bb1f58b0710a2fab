"""What a run's page says of metrics, of the step that was kept, of warnings, and of what chat cannot serve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from ml.specs import METHODS, why_not_served
from tests.webapp.library import dataset_version, published
from tests.webapp.run_forms import version_of
from tests.webapp.test_targets import adapter_of
from webapp.models import AdapterVersion, Run, Team
from webapp.selectors import runs as select
from webapp.selectors.metrics import METRICS
from webapp.selectors.run_outcome import kept, measured, warnings
from webapp.services import runs as services
from webapp.services.run_leases import run_claim, run_started
from webapp.services.runs import training_submit

ClientOf = Callable[[Any], Client]
LETTER = "Dear customer,\nyour parcel is on its way and comes on Monday. " * 3
SERVED = next(method for method in METHODS.values() if not why_not_served(method.form))
WHY_NOT = why_not_served(SERVED.form, "encoder")


@pytest.fixture
def run(team: Team, member: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(services, "enqueue", lambda kind, run_id: None)
    version = version_of(team, "letters", "generation")
    given = {"method": SERVED.name, "base": "tiny", "steps": 100}
    run = training_submit(team=team, user=member, adapter="ada", dataset_version_id=version.pk, given=given)
    claim = run_claim(run_id=run.pk, owner="w")
    assert claim and run_started(claim=claim)
    return run


def record(run: Run, *events: tuple[str, dict[str, Any]]) -> None:
    for name, data in events:
        run.events.create(name=name, data=data)


def look(step: int, split: str = "validation", subject: str = "adapter", **more: Any) -> tuple[str, dict[str, Any]]:
    metrics = {"bleu": 0.25, "loss": 1.5, "perplexity": 4.48, "exact_match": 0.1, "token_f1": 0.5, "novelty": 0.125}
    data = {"step": step, "split": split, "subject": subject, "metrics": metrics, "n_rows": 7,
            "intervals": {"bleu": [0.2, 0.31], "token_f1": None}}  # fmt: skip
    return "eval", {**data, **more}


def test_every_metric_is_shown_in_order_with_its_interval_beside_the_plain_models(run: Run) -> None:
    record(run, look(0, "test", "plain"), look(5), look(9, "test"))
    found = measured(select.evaluations(run))
    assert found and (found.split, found.n_rows, found.has_plain) == ("test", 7, True)
    names = ["Token F1", "Exact match", "BLEU", "Loss", "Perplexity", "novelty"]
    assert [row.metric.label for row in found.rows] == names
    bleu = found.rows[2]
    assert (bleu.own.text, bleu.own.interval) == ("25.0 %", "[20.0, 31.0]")
    assert bleu.plain and bleu.plain.text == "25.0 %" and found.rows[0].own.interval == ""
    assert found.rows[3].own.text == "1.500"


def test_a_technique_without_an_untouched_model_shows_no_column_for_it(
    client_of: ClientOf, viewer: Any, run: Run
) -> None:
    record(run, look(5))
    page = client_of(viewer).get(f"/runs/{run.pk}/").content.decode()
    assert "Token F1" in page and "Untouched model</th>" not in page and "the dashed line" not in page


@pytest.mark.parametrize("metrics", [{}, None, {"loss": "nan"}])
def test_figures_that_are_none_never_break_the_page(client_of: ClientOf, viewer: Any, run: Run, metrics: Any) -> None:
    record(run, look(5, metrics=metrics))
    assert client_of(viewer).get(f"/runs/{run.pk}/").status_code == 200


def test_metrics_that_are_shares_may_head_a_version_and_others_not() -> None:
    from webapp.selectors.metrics import HEADLINES

    assert set(HEADLINES) == {name for name, metric in METRICS.items() if metric.is_share}
    assert not {"loss", "perplexity"} & set(HEADLINES)


def test_the_kept_step_the_reason_to_stop_and_warnings_are_said(client_of: ClientOf, viewer: Any, run: Run) -> None:
    record(
        run, look(40), ("best", {"step": 40, "metric": "loss", "value": 0.9}),
        ("warning", {"text": "Out of memory with 8 rows at once; going on with 4."}),
        ("warning", {"text": "Out of memory with 8 rows at once; going on with 4."}),
    )  # fmt: skip
    found = kept(run)
    assert found and (found.step, found.is_final, found.label, found.text) == (40, False, "Loss", "0.900")
    assert warnings(run) == ["Out of memory with 8 rows at once; going on with 4."]
    client = client_of(viewer)
    page = client.get(f"/runs/{run.pk}/").content.decode()
    assert "Best so far: step 40, loss 0.900" in page and "going on with 4" in page
    why = "stopped early after 70 steps: 3 looks in a row were no better than step 40"
    record(run, ("phase", {"text": why}), ("finished", {"kept_step": 40}))
    Run.objects.filter(pk=run.pk).update(state=Run.State.SUCCEEDED, progress={"done": 70, "total": 100})
    page = client.get(f"/runs/{run.pk}/").content.decode()
    assert why.capitalize() in page and "The weights of step 40 are kept" in page
    assert "70 of 100" in page and "finished with the weights of step 40" in page


def test_runs_from_before_say_nothing_of_a_kept_step(run: Run) -> None:
    record(run, ("finished", {"metrics": {}}))
    assert kept(run) is None


def test_long_answers_are_shown_whole_with_their_lines(client_of: ClientOf, viewer: Any, run: Run) -> None:
    samples = [{"row": i, "prompt": "p " * 300, "expected": LETTER, "got": LETTER + str(i), "correct": False,
                "loss": float(i)} for i in range(8)]  # fmt: skip
    record(run, look(5, samples=samples))
    page = client_of(viewer).get(f"/runs/{run.pk}/").content.decode()
    assert page.count("cf-sample-long") == 8 and LETTER + "7" in page and "None is right yet" not in page


def unserved(team: Team, name: str = "odd") -> AdapterVersion:
    """On a base model of a family that the engine does not serve."""
    return adapter_of(team, name, 1, manifest={"family": "encoder"}).versions.get()


def test_a_run_whose_adapter_chat_cannot_serve_says_so_instead_of_a_dead_button(
    client_of: ClientOf, viewer: Any, member: Any, team: Team, run: Run
) -> None:
    version = unserved(team)
    AdapterVersion.objects.filter(pk=version.pk).update(run=run)
    Run.objects.filter(pk=run.pk).update(state=Run.State.SUCCEEDED)
    page = client_of(member).get(f"/runs/{run.pk}/").content.decode()
    assert "Not served in chat yet: " in page and WHY_NOT in page
    assert "Try it in chat" not in page and "/chat/?target=" not in page


def test_so_does_the_adapters_page(client_of: ClientOf, viewer: Any, team: Team) -> None:
    version = unserved(team)
    page = client_of(viewer).get(f"/adapters/{version.adapter_id}/").content.decode()
    assert WHY_NOT in page and "/chat/?target=odd" not in page


def written(team: Team, folder: Path, name: str, value: float) -> AdapterVersion:
    """A version that was measured on free answers: no accuracy."""
    block = {"token_f1": value, "bleu": value / 2, "loss": 1.0, "perplexity": 2.7, "n_rows": 50,
             "intervals": {"token_f1": [value - 0.02, value + 0.02]}}  # fmt: skip
    return published(team, folder / name, name=name, test=block)


@pytest.mark.parametrize("path", ["/", "/studies/same-rows/", "/adapters/"])
def test_pages_that_list_metrics_show_those_of_free_answers(
    client_of: ClientOf, viewer: Any, team: Team, tmp_path: Path, settings: Any, path: str, redis_url_unreachable: None
) -> None:
    settings.STORAGE_DIR = tmp_path / "storage"
    settings.STORAGE_DIR.mkdir()
    written(team, tmp_path, "letters", 0.5)
    page = client_of(viewer).get(path).content.decode()
    assert "token F1" in page and "50.0" in page and "[48.0, 52.0]" in page


def test_a_study_of_free_answers_is_led_by_their_metric(
    client_of: ClientOf, viewer: Any, team: Team, tmp_path: Path, settings: Any
) -> None:
    settings.STORAGE_DIR = tmp_path / "storage"
    settings.STORAGE_DIR.mkdir()
    data = dataset_version(team, "letters")
    for name, value in (("weak", 0.3), ("best", 0.5)):
        block = {"token_f1": value, "loss": 1.0, "n_rows": 50, "intervals": {"token_f1": [value - 0.02, value + 0.02]}}
        published(team, tmp_path / name, name=name, test=block, data=data)
    page = client_of(viewer).get(f"/studies/same-rows/{data.pk}/").content.decode()
    assert "Token F1, 50 rows" in page and page.index("best@") < page.index("weak@")
