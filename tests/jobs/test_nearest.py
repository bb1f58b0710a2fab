"""Examples nearest to a question: right ones, computed once, only the team's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs import nearest as service
from jobs import retrieve
from jobs.engine_prepare import with_examples, without_oldest
from jobs.stream import GenerateRequest
from ml.errors import NotFoundError
from tests.ml.retrieval.conftest import tiny_bert_models  # noqa: F401
from tests.webapp.prompt_data import TRAIN, stored
from webapp import storage
from webapp.models import DatasetVersion, Team
from webapp.selectors.targets import resolve
from webapp.services.asking import Sampling, request_for
from webapp.services.prompts import prompt_create

pytestmark = pytest.mark.django_db


@pytest.fixture
def team(db: None) -> Team:
    return Team.objects.create(slug="desk", name="Desk")


@pytest.fixture
def data(team: Team, settings: Any, tiny_bert_models: Path) -> DatasetVersion:  # noqa: F811
    settings.MODELS_DIR, settings.EMBEDDING_MODEL = tiny_bert_models, "tiny-bert"
    service._kept.clear()
    return stored(team)


def ask(data: DatasetVersion, query: str, k: int = 2) -> list[dict[str, Any]]:
    return service.nearest(team_id=data.team_id, dataset_version_id=data.pk, query=query, k=k)


def test_the_row_itself_is_its_nearest_and_stands_last(data: DatasetVersion) -> None:
    found = ask(data, TRAIN[3][0], k=3)
    assert (found[-1]["question"], found[-1]["answer"], found[-1]["row"]) == (TRAIN[3][0], "billing", 4)
    assert found[-1]["score"] == pytest.approx(1, abs=1e-3)
    assert [row["score"] for row in found] == sorted(row["score"] for row in found)


def test_vectors_are_computed_once_and_kept_in_the_storage(
    data: DatasetVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(data, "dark")
    assert storage.exists(f"vectors/{data.sha256}/tiny-bert")
    texts: list[str] = []

    def embed(asked: list[str], **more: Any) -> Any:
        texts.extend(asked)
        return retrieve.embed(asked, **more)

    monkeypatch.setattr(service, "embed", embed)
    service._kept.clear()
    assert ask(data, "dark") == first and texts == ["dark"]


def test_another_teams_data_set_does_not_exist(data: DatasetVersion) -> None:
    with pytest.raises(NotFoundError):
        service.nearest(team_id=data.team_id + 1, dataset_version_id=data.pk, query="x", k=1)


def test_held_out_rows_are_never_found(data: DatasetVersion) -> None:
    assert {row["row"] for row in ask(data, "It is dark here.", k=32)} == set(range(1, len(TRAIN) + 1))


def test_an_engine_puts_the_examples_before_the_question(team: Team, data: DatasetVersion) -> None:
    prompt_create(team=team, user=None, name="queue", technique="few_shot", template="Message: {text}", pick="nearest",
                  k=1, dataset=data, system="One of {labels}")  # fmt: skip
    made = request_for(target=resolve(team=team, name="queue"), team_id=team.pk, sampling=Sampling(),
                       messages=[{"role": "user", "content": TRAIN[1][0]}])  # fmt: skip
    asked = with_examples(GenerateRequest.from_json(made.as_json()))
    assert asked.n_examples == 2
    assert [m["content"] for m in asked.messages] == [
        "One of billing, internet, outage", f"Message: {TRAIN[1][0]}", "billing", f"Message: {TRAIN[1][0]}",
    ]  # fmt: skip


def test_the_service_answers_with_rows_or_with_the_error(data: DatasetVersion) -> None:
    replies: list[dict[str, Any]] = []
    payload = {"team_id": data.team_id, "dataset_version_id": data.pk, "query": "dark", "k": 1}
    answering = service.NearestService()
    answering._answer(payload, replies.append)
    answering._answer({**payload, "team_id": 0}, replies.append)
    answering.stop()
    assert len(replies[0]["rows"]) == 1 and replies[1]["error"]["code"] == "not_found"


def test_a_chat_that_grows_too_long_loses_its_turns_before_the_prompts_examples() -> None:
    roles = ["system", "user", "assistant", "user", "assistant", "user"]
    messages = [{"role": role, "content": str(n)} for n, role in enumerate(roles)]
    shorter = without_oldest(messages, n_examples=2)
    assert [m["content"] for m in shorter] == ["0", "1", "2", "5"]
    assert without_oldest(shorter, n_examples=2) == []
    assert [m["content"] for m in without_oldest(messages)] == ["0", "3", "4", "5"]
