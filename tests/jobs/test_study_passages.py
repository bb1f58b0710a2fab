"""Passages before a study: what is asked, that it is asked once, and that the study then begins without Redis."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import stream
from jobs.commands import extra_env, prepare, workdir_of
from jobs.engine_services import Services
from jobs.study_passages import FILE, find
from jobs.supervise import supervise
from ml.errors import NotFoundError, UnavailableError
from ml.study.passages import read_passages
from tests.jobs.ingest_fixture import axis, write_output
from tests.jobs.redis_fixture import RedisChild, redis_child  # noqa: F401
from tests.ml.running import Recorder
from tests.ml.tiny import save_tiny_llama
from tests.webapp.studying import data_version, published, submitted
from webapp import storage
from webapp.models import Collection, PromptVersion, Run, Study, Team
from webapp.services.collections import collection_create, documents_add, ingest_publish
from webapp.services.studies import study_extend
from webapp.services.study_promotions import study_promote

BOTH = ["zero_shot", "retrieval"]
RIGHT = {"zero_shot-s17": 6, "retrieval-s17": 9}


@pytest.fixture
def team(db: None, settings: Any, tmp_path: Path) -> Team:
    settings.VAR_DIR, settings.RUNS_DIR = tmp_path, tmp_path / "runs"
    settings.STORAGE_DIR, settings.MODELS_DIR = tmp_path / "storage", tmp_path / "models"
    save_tiny_llama(tmp_path / "models" / "tiny")
    return Team.objects.create(slug="t", name="T")


@pytest.fixture
def collection(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Collection:
    monkeypatch.setattr("webapp.services.runs.enqueue", lambda kind, run_id: None)
    made = collection_create(team=team, user=None, name="opinions", top_k=2, threshold=0.3, refusal="It does not say.")
    added = documents_add(collection=made, user=None, files=[("a.md", b"# Trees")])
    documents = {one["id"]: [("A tree is owned by both.", axis(0))] for one in added.run.spec["documents"]}
    ingest_publish(run=added.run, out=write_output(tmp_path / "ingested", documents))
    return made


@pytest.fixture
def study(team: Team, collection: Collection, tmp_path: Path) -> Study:
    version = data_version(team, tmp_path / "data", n_valid=8)
    return submitted(team, None, version, techniques=BOTH, collection="opinions", test_rows=4, max_length=128)


def run_of(study: Study) -> Run:
    return Run.objects.get(study=study.pk)


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def hit(query: str) -> dict[str, Any]:
    return {"n": 1, "chunk_id": 7, "title": "a.md", "page": None, "score": 0.8, "text": f"About {query}.", "start": 0}


@pytest.fixture
def engine(redis_child: RedisChild, settings: Any) -> Iterator[list[dict[str, Any]]]:  # noqa: F811
    """Answers searches as an engine does; gives what it was asked. Nothing is near the first question."""
    settings.REDIS_URL = redis_child.url
    asked: list[dict[str, Any]] = []

    def search(payload: dict[str, Any]) -> dict[str, Any]:
        asked.append(payload)
        return {"hits": [hit(payload["query"])] if len(asked) > 1 else []}

    services = Services("e1", "tiny", {"search": search})
    services.start()
    yield asked
    services.stop()


def test_questions_are_written_without_the_data_sets_framing(study: Study) -> None:
    words = prepare(run_of(study))
    folder = workdir_of(run_of(study).pk)
    assert words == [sys.executable, "-m", "jobs.study_passages", "--workdir", str(folder)]
    lines = [json.loads(line) for line in (folder / "passages" / "questions.jsonl").read_text().splitlines()]
    assert lines == [{"place": place, "query": f"ticket number {15 + place}"} for place in range(4)]
    about = json.loads((folder / "passages" / "about.json").read_text())
    assert (about["team_id"], about["top_k"], about["threshold"]) == (study.team_id, 2, 0.3)
    assert json.loads((folder / "command.json").read_text())["words"][1:4] == ["-m", "ml", "study"]
    assert set(extra_env(run_of(study))) == {"REDIS_URL"}


def test_without_retrieval_nothing_is_searched(team: Team, collection: Collection, tmp_path: Path) -> None:
    version = data_version(team, tmp_path / "data")
    asked = submitted(team, None, version, techniques=["zero_shot"])
    words = prepare(run_of(asked))
    assert words[1:4] == ["-m", "ml", "study"] and "--passages" not in words
    assert extra_env(run_of(asked)) == {}


def test_what_was_found_is_not_searched_again(study: Study) -> None:
    path = workdir_of(run_of(study).pk) / FILE
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert option(prepare(run_of(study)), "--passages") == str(path)
    assert extra_env(run_of(study)) == {}, "the study itself gets no address of Redis"


def test_an_extended_study_stays_on_what_it_found(study: Study, tmp_path: Path) -> None:
    out = tmp_path / f"out{study.run_id}"
    out.mkdir()
    (out / FILE).write_text("{}")
    done = published(study, tmp_path, RIGHT)
    Collection.objects.all().delete()
    study_extend(study=Study.objects.get(pk=done.pk), user=None, techniques=["few_shot"])
    assert option(prepare(run_of(study)), "--passages") == str(storage.path_of(done.storage_key) / FILE)


def test_a_collection_that_was_deleted_leaves_a_study_without_passages(study: Study) -> None:
    Collection.objects.all().delete()
    words = prepare(run_of(study))
    assert words[1:4] == ["-m", "ml", "study"] and "--passages" not in words


def prepared(study: Study) -> Path:
    prepare(run_of(study))
    return workdir_of(run_of(study).pk)


def test_every_question_is_asked_once_and_kept(study: Study, engine: list[dict[str, Any]]) -> None:
    folder, told = prepared(study), Recorder()
    assert find(folder, told) == 0
    assert {one["query"] for one in engine} == {f"ticket number {n}" for n in range(15, 19)}
    assert {(one["k"], one["threshold"], one["collection_id"]) for one in engine} == {(2, 0.3, study.collection_id)}
    found = read_passages(folder / FILE)
    assert found.refusal == "It does not say."
    assert sum(bool(found.of(f"ticket number {n}")) for n in range(15, 19)) == 3
    texts = [event["text"] for event in told.events if event["event"] == "progress"]
    assert texts and set(texts) == {"Searching the collection opinions"}
    assert find(folder, told) == 0 and len(engine) == 4


@pytest.mark.parametrize("error", [NotFoundError("There is no collection 3 in this team."), None])
def test_what_cannot_be_mended_ends_it_and_what_can_is_asked_again(
    error: NotFoundError | None, study: Study, engine: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, n_asked = stream.acall_service, 0

    async def failing(kind: str, payload: Any, timeout_s: float) -> Any:
        nonlocal n_asked
        n_asked += 1
        if n_asked == 1:
            raise error or UnavailableError("The vector store does not answer.")
        return await real(kind, payload, timeout_s)

    monkeypatch.setattr(stream, "acall_service", failing)
    monkeypatch.setattr("jobs.asking.Asking._pause", _at_once)
    folder, told = prepared(study), Recorder()
    assert find(folder, told) == 0
    assert (folder / FILE).exists() == (error is None)
    warned = [event["text"] for event in told.events if event["event"] == "warning"]
    assert warned == ([f"{error.message} Retrieval is not measured."] if error else [])


async def _at_once(*_: Any) -> None:
    return None


@pytest.mark.django_db(transaction=True)
def test_a_study_with_a_collection_goes_from_its_questions_into_the_library(
    study: Study, collection: Collection, engine: list[dict[str, Any]]
) -> None:
    assert supervise(run_of(study).pk) == "succeeded", run_of(study).error
    assert len(engine) == 4
    done = Study.objects.get(pk=study.pk)
    states = dict(done.entries.values_list("key", "state"))
    assert states == {"zero_shot-s17": "done", "retrieval-s17": "done"}
    entry = done.entries.get(key="retrieval-s17")
    assert entry.summary["tokens_in"] > done.entries.get(key="zero_shot-s17").summary["tokens_in"]
    assert read_passages(storage.path_of(done.storage_key) / FILE).about["collection"] == "opinions"
    made = study_promote(entry=entry, user=None, name="from-sources", alias="")
    assert isinstance(made, PromptVersion) and made.collection == collection
    study_extend(study=done, user=None, techniques=["few_shot"])
    assert supervise(run_of(done).pk) == "succeeded"
    assert len(engine) == 4, "the passages are searched once"
    assert done.entries.get(key="retrieval-s17").summary == entry.summary


def test_told_to_stop_it_keeps_no_half_result(study: Study, redis_child: RedisChild, settings: Any) -> None:  # noqa: F811
    """Nobody answers: it waits, says so, and is stopped."""
    settings.REDIS_URL = redis_child.url
    folder, told = prepared(study), Recorder()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert find(folder, told) == 75
    assert told.events[-1]["event"] == "stopped" and not (folder / FILE).exists()
