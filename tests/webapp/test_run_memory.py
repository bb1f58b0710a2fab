"""The memory panel of a new run: a bar and a word when an engine plans, a sentence when none does."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from ml.errors import SpecError, UnavailableError
from tests.webapp.planner import Planner, planner
from tests.webapp.run_forms import bases, filled, version_of
from webapp.models import Run, RunEvent
from webapp.selectors.runs import memory_ratio

ClientOf = Callable[[Any], Client]
SAID: dict[str, Any] = {
    "runtime": 550_000_000, "weights": 538_000_000, "trainables": 9_000_000, "gradients": 9_000_000,
    "optimizer": 18_000_000, "activations": 2_000_000_000, "buffers": 100_000_000, "total": 3_224_000_000,
    "device": "cpu", "free": 16_000_000_000, "verdict": "fits",
}  # fmt: skip
REMEDY = {"text": "Set rows at once to 4: the same result", "changes": {"micro_batch_size": 4}, "saved": 10**9,
          "verdict": "fits"}  # fmt: skip


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Planner:
    return planner(monkeypatch, "webapp.selectors.run_memory", SAID)


@pytest.fixture
def client(client_of: ClientOf, member: Any, team: Any) -> Client:
    bases()
    version_of(team)
    return client_of(member)


def panel(client: Client, what: str = "memory", **changes: Any) -> str:
    response = client.post(f"/runs/new/{what}/", filled(client, **changes))
    assert response.status_code == 200
    return " ".join(response.content.decode().split())


def test_the_panel_says_in_a_word_and_a_bar_whether_it_fits(client: Client, service: Planner) -> None:
    page = panel(client)
    assert "Fits" in page
    assert "3.2 GB of 16.0 GB free" in page
    assert 'width="13.12%"' in page  # activations: 2.1 of 16 GB
    assert "new/fixes/" not in page


def test_the_engine_is_asked_for_the_whole_spec_and_the_labels(client: Client, service: Planner) -> None:
    panel(client, micro_batch_size="2")
    asked = service.asked[0]
    assert asked["spec"]["micro_batch_size"] == 2
    assert (asked["labels"], asked["remedies"]) == (2, False)


def test_what_does_not_fit_asks_for_remedies_and_their_buttons_name_the_inputs(
    client: Client, service: Planner
) -> None:
    service.said = {**SAID, "verdict": "does_not_fit", "free": 10**9}
    assert "new/fixes/" in panel(client)
    longer = {**REMEDY, "changes": {"method": "qlora", "optimizer": "paged_adamw", "gradient_checkpointing": True}}
    service.said = {**service.said, "remedies": [REMEDY, longer]}
    page = panel(client, "fixes")
    assert service.asked[-1]["remedies"] is True
    assert "What would make it fit" in page
    assert "−1.0 GB · fits" in page
    plain, other = (json.loads(part.split('"')[0].replace("&quot;", '"')) for part in page.split('data-inputs="')[1:])
    assert plain == {"micro_batch_size": 4}
    assert other["method"] == "qlora"
    form = client.get("/runs/new/").context["form"]
    assert set(other) <= set(form.fields)


def test_a_tight_plan_says_so(client: Client, service: Planner) -> None:
    service.said = {**SAID, "verdict": "tight"}
    assert "leave more room" in panel(client)


def test_without_an_engine_the_panel_says_when_the_plan_comes(client: Client, service: Planner) -> None:
    service.engines = []
    assert "no engine is there to ask" in panel(client)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UnavailableError("No engine answered.", hint=""), "load delay:2s"),
        (SpecError("A bad k.", hint="Less."), "A bad k."),
    ],
)
def test_a_plan_that_fails_is_a_sentence(client: Client, service: Planner, error: Exception, words: str) -> None:
    service.said = error
    assert words in panel(client)


def test_what_is_not_valid_yet_is_not_asked_for(client: Client, service: Planner) -> None:
    assert "left to mend" in panel(client, micro_batch_size="0")
    assert not service.asked


def test_the_form_asks_for_the_memory_beside_the_rest_of_the_plan(client: Client) -> None:
    assert 'hx-post="/runs/new/memory/"' in client.get("/runs/new/").content.decode()


@pytest.mark.parametrize(("predicted", "peak", "said"), [(1100, 1000, "1.10"), (0, 1000, ""), (1100, 0, "")])
def test_a_run_shows_how_its_prediction_compares_with_its_peak(team: Any, predicted: int, peak: int, said: str) -> None:
    run = Run.objects.create(team=team, kind=Run.Kind.TRAIN, title="t", spec={}, result={"peak_bytes": peak})
    if predicted:
        RunEvent.objects.create(run=run, name="plan", data={"total": predicted})
    assert memory_ratio(run) == said
