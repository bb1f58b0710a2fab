"""A study as a job: what its child is given, what is published of it, and what is kept when it was stopped."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import study as studying
from jobs import supervise as supervising
from jobs.commands import prepare, workdir_of
from jobs.notes import Notes
from jobs.publish import publish
from jobs.queue import QUEUE_OF
from jobs.reconcile import collect_garbage, sweep_studies
from jobs.study import prepare_study
from jobs.supervise import supervise
from ml.errors import ArtifactError, ColdframeError, DataError
from tests.webapp.studying import N_TEST, data_version, submitted, write_out
from webapp import storage
from webapp.models import Run, Study, Team
from webapp.services.run_leases import run_claim, run_publishing, run_requeue, run_started
from webapp.services.runs import run_cancel, run_retry
from webapp.services.studies import study_extend

pytestmark = pytest.mark.django_db
RIGHT = {"plain-s17": 3, "zero_shot-s17": 5, "lora-s17": 11}


@pytest.fixture
def study(settings: Any, tmp_path: Path) -> Study:
    settings.VAR_DIR, settings.RUNS_DIR = tmp_path, tmp_path / "runs"
    settings.STORAGE_DIR, settings.MODELS_DIR = tmp_path / "storage", tmp_path / "models"
    (tmp_path / "runs").mkdir()
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "models" / "tiny" / "config.json").write_text("{}")
    team = Team.objects.create(slug="t", name="T")
    return submitted(team, None, data_version(team, tmp_path))


def run_of(study: Study) -> Run:
    found: Run = Run.objects.get(pk=Study.objects.values_list("run_id", flat=True).get(pk=study.pk))
    return found


def publish_out(study: Study, **given: Any) -> Study:
    """What the child left goes the whole way: claim, check, storage, transaction."""
    run = run_of(study)
    claim = run_claim(run_id=run.pk, owner="w")
    assert claim is not None and run_started(claim=claim) and run_publishing(claim=claim)
    out = write_out(workdir_of(run.pk) / "out", study, {**RIGHT, **given})
    publish(claim=claim, out=out, finished={"seconds": 90.0})
    return Study.objects.select_related("run", "dataset_version__dataset", "team").get(pk=study.pk)


def test_a_study_runs_where_devices_are(study: Study):
    assert QUEUE_OF["study"] == "gpu" and run_of(study).kind == "study"


def test_the_child_gets_the_spec_without_what_is_for_the_app(study: Study):
    run = run_of(study)
    words = prepare(run)
    folder = workdir_of(run.pk)
    assert words[1:5] == ["-m", "ml", "study", str(folder / "spec.json")]
    options = dict(zip(words[5::2], words[6::2], strict=True))
    assert options["--dataset"] == str(storage.path_of(study.dataset_version.storage_key))
    assert options["--workdir"] == str(folder) and options["--device"] == "auto" and "--before" not in options
    assert json.loads((folder / "spec.json").read_text()) == study.spec


def test_a_model_that_is_missing_fails_before_the_child_starts(study: Study, tmp_path: Path):
    (tmp_path / "models" / "tiny" / "config.json").unlink()
    with pytest.raises(ColdframeError, match="'tiny' is not in the models folder"):
        prepare(run_of(study))


def test_an_extension_is_given_what_was_measured_before(study: Study):
    done = publish_out(study)
    study_extend(study=done, user=None, techniques=["ia3"])
    words = prepare(run_of(study))
    assert words[words.index("--before") + 1] == str(storage.path_of(done.storage_key))


def test_a_run_that_its_study_left_does_not_start(study: Study):
    done = publish_out(study)
    old = run_of(study)
    study_extend(study=done, user=None, techniques=["ia3"])
    with pytest.raises(ColdframeError, match="went on with another run"):
        prepare(old)


def test_results_are_published_under_their_content(study: Study):
    done = publish_out(study)
    assert done.run is not None and done.run.state == Run.State.SUCCEEDED
    folder = storage.path_of(done.storage_key)
    assert (folder / "board.json").is_file() and done.entries.filter(state="done").count() == 3
    lines = [json.loads(line) for line in (folder / "rows" / "lora-s17.jsonl").open()]
    assert [line["is_right"] for line in lines] == [True] * 11 + [False] and lines[0]["score"] == 1.0


def test_the_same_content_has_the_same_name(study: Study, tmp_path: Path):
    run = run_of(study)
    keys = {prepare_study(run, write_out(tmp_path / name, study, RIGHT))[0] for name in "ab"}
    assert (
        len(keys) == 1
        and prepare_study(run, write_out(tmp_path / "c", study, {**RIGHT, "plain-s17": 4}))[0] not in keys
    )


def test_rivals_are_compared_row_by_row(study: Study):
    entry = publish_out(study).entries.get(key="lora-s17")
    found = entry.compared["entries"]["zero_shot-s17"]
    assert found["n_rows"] == N_TEST and found["metrics"]["accuracy"]["difference"] == pytest.approx(-6 / N_TEST)
    assert "plain-s17" not in entry.compared["entries"]
    turned = Study.objects.get().entries.get(key="zero_shot-s17").compared["entries"]["lora-s17"]["metrics"]["accuracy"]
    here = found["metrics"]["accuracy"]
    assert (turned["a"], turned["difference"], turned["low"]) == (here["b"], -here["difference"], -here["high"])
    assert turned["mcnemar"]["only_a"] == here["mcnemar"]["only_b"] == 6


def test_a_damaged_artifact_is_not_published(study: Study, tmp_path: Path):
    out = write_out(tmp_path / "out", study, RIGHT)
    (out / "artifacts" / "lora-s17" / "adapter_model.safetensors").write_bytes(b"one flipped byte")
    with pytest.raises(ArtifactError, match=r"lora-s17/adapter_model.safetensors is not what its manifest says"):
        prepare_study(run_of(study), out)


@pytest.mark.parametrize("name", ["cells/lora-s17.json", "rows/lora-s17.jsonl"])
def test_a_file_that_cannot_be_read_is_named(name: str, study: Study, tmp_path: Path):
    out = write_out(tmp_path / "out", study, RIGHT)
    (out / name).write_text("{")
    with pytest.raises(DataError, match="lora-s17"):
        prepare_study(run_of(study), out)


def test_drafts_that_a_kill_left_are_no_result(study: Study, tmp_path: Path):
    out = write_out(tmp_path / "out", study, RIGHT)
    (out / "cells" / ".ia3-s17.json").write_text("{")
    key, _ = prepare_study(run_of(study), out)
    assert storage.put_folder(out, key).is_dir() and not (out / "cells" / ".ia3-s17.json").exists()


def test_what_a_stopped_study_had_finished_is_kept(study: Study):
    run = run_of(study)
    write_out(workdir_of(run.pk) / "out", study, {"plain-s17": 3})
    run_cancel(run=run)
    studying.keep(run.pk, workdir_of(run.pk))
    kept = Study.objects.get()
    assert kept.is_done and [entry.key for entry in kept.entries.all()] == ["plain-s17"]
    assert run_of(study).state == Run.State.CANCELLED


def test_nothing_is_kept_of_a_run_that_goes_on(study: Study):
    run = run_of(study)
    write_out(workdir_of(run.pk) / "out", study, {"plain-s17": 3})
    studying.keep(run.pk, workdir_of(run.pk))
    assert not Study.objects.get().is_done


def test_a_run_that_is_tried_again_while_its_results_are_kept_publishes_by_itself(
    study: Study, monkeypatch: pytest.MonkeyPatch
):
    run = run_of(study)
    write_out(workdir_of(run.pk) / "out", study, {"plain-s17": 3})
    run_cancel(run=run)
    put = storage.put_folder

    def put_meanwhile(local: Path, key: str) -> Path:
        run_retry(run=run)
        return put(local, key)

    monkeypatch.setattr(storage, "put_folder", put_meanwhile)
    studying.keep(run.pk, workdir_of(run.pk))
    assert not Study.objects.get().is_done


def test_results_that_cannot_be_kept_break_nothing(study: Study):
    run = run_of(study)
    out = write_out(workdir_of(run.pk) / "out", study, {"plain-s17": 3})
    (out / "rows" / "plain-s17.jsonl").unlink()
    run_cancel(run=run)
    studying.keep(run.pk, workdir_of(run.pk))
    assert not Study.objects.get().is_done


def test_a_study_s_folder_is_kept_before_it_is_removed(study: Study):
    run = run_of(study)
    write_out(workdir_of(run.pk) / "out", study, {"plain-s17": 3})
    run_cancel(run=run)
    long_ago = time.time() - 2 * 24 * 3600
    Run.objects.filter(pk=run.pk).update(finished_at="2020-01-01T00:00:00Z")
    os.utime(workdir_of(run.pk), (long_ago, long_ago))
    collect_garbage()
    assert not workdir_of(run.pk).exists() and Study.objects.get().is_done


def test_results_that_were_replaced_are_swept_and_those_in_use_are_not(study: Study):
    first = publish_out(study)
    study_extend(study=first, user=None, techniques=["ia3"])
    second = publish_out(Study.objects.select_related("run", "dataset_version").get(), **{"ia3-s17": 6})
    folders = [storage.path_of(one.storage_key) for one in (first, second)]
    sweep_studies()
    assert all(folder.is_dir() for folder in folders)
    long_ago = time.time() - 2 * 24 * 3600
    for folder in folders:
        os.utime(folder, (long_ago, long_ago))
    sweep_studies()
    assert [folder.is_dir() for folder in folders] == [False, True]


def test_cells_and_boards_become_events_and_progress_counts_cells(tmp_path: Path):
    notes = Notes(tmp_path)
    notes.add("event", {"event": "cell", "key": "lora-s17", "state": "training"})
    notes.add("event", {"event": "progress", "done": 2, "total": 5, "text": "LoRA, seed 17"})
    notes.add("event", {"event": "board", "metric": "accuracy"})
    batch = notes.batch()
    assert [name for name, _ in batch.events] == ["cell", "board"]
    assert batch.progress is not None and (batch.progress["done"], batch.progress["total"]) == (2, 5)


CHILD = """
import json, signal, sys, time
from pathlib import Path
stopping = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
say = lambda event, **values: print(json.dumps({"event": event, **values}), flush=True)
out = Path(sys.argv[1])
say("cell", key="lora-s17", technique="lora", seed=17, share=1.0, state="training")
say("progress", done=1, total=3, text="LoRA, seed 17")
while len(sys.argv) > 2 and not stopping:
    time.sleep(0.01)
if stopping:
    say("stopped", step=0)
    sys.exit(75)
say("board", metric="accuracy", entries=[])
say("finished", out=str(out), seconds=3.0, metrics={"accuracy": 0.9})
"""


@pytest.fixture
def child(study: Study, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a child that only speaks in the place of the real one; its results are there from the start."""

    def use(*arguments: str) -> None:
        def fake_prepare(run: Run) -> list[str]:
            out = write_out(workdir_of(run.pk) / "out", study, RIGHT)
            return [sys.executable, "-S", "-E", "-c", CHILD, str(out), *arguments]

        monkeypatch.setattr(supervising, "prepare", fake_prepare)
        monkeypatch.setattr(supervising, "FLUSH_S", 0.05)

    return use


@pytest.mark.django_db(transaction=True)
def test_a_study_s_child_is_supervised_to_its_end(study: Study, child: Callable[..., None]):
    child()
    run = run_of(study)
    assert supervise(run.pk) == "succeeded"
    run.refresh_from_db()
    assert run.progress["total"] == 3 and run.result["metrics"] == {"accuracy": 0.9}
    assert Study.objects.get().entries.filter(state="done").count() == 3
    assert set(run.events.values_list("name", flat=True)) == {"cell", "board", "finished"}


@pytest.mark.django_db(transaction=True)
def test_a_stopped_child_s_cells_are_there_when_the_run_is_over(
    study: Study, child: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    child("waits")
    run = run_of(study)
    record = supervising.run_record

    def cancel_then_record(**given: Any) -> Any:
        run_cancel(run=Run.objects.get(pk=run.pk))
        return record(**given)

    monkeypatch.setattr(supervising, "run_record", cancel_then_record)
    assert supervise(run.pk) == "cancelled"
    assert Study.objects.get().is_done and run_of(study).state == Run.State.CANCELLED


def test_a_worker_that_restarts_hands_the_study_back_without_publishing(study: Study):
    run = run_of(study)
    claim = run_claim(run_id=run.pk, owner="w")
    assert claim is not None and run_started(claim=claim)
    write_out(workdir_of(run.pk) / "out", study, {"plain-s17": 3})
    assert run_requeue(claim=claim, consumes_attempt=False, error={"message": ""})
    studying.keep(run.pk, workdir_of(run.pk))
    assert not Study.objects.get().is_done and run_of(study).state == Run.State.QUEUED
