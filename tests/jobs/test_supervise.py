"""One run under its supervisor, with a child that only speaks: events, ends, advice, stopping, publishing."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError

from jobs import supervise as supervising
from jobs import verdict
from jobs.commands import workdir_of
from jobs.notes import Notes
from jobs.supervise import supervise
from webapp.models import AdapterVersion, Run, Team
from webapp.services.run_leases import run_claim
from webapp.services.runs import run_cancel, run_submit

FAKE = Path(__file__).with_name("fake_child.py")
pytestmark = pytest.mark.django_db
Submit = Callable[..., Run]


@pytest.fixture
def submit(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Submit:
    """Submits a run whose child is the fake one; its behaviour is given as keywords."""
    settings.VAR_DIR, settings.RUNS_DIR = tmp_path, tmp_path / "runs"
    settings.STORAGE_DIR = tmp_path / "storage"

    def fake_prepare(run: Run) -> list[str]:
        folder = workdir_of(run.pk)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "spec.json").write_text(json.dumps(run.spec))
        return [sys.executable, "-S", "-E", str(FAKE), str(folder)]

    monkeypatch.setattr(supervising, "prepare", fake_prepare)
    monkeypatch.setattr(supervising, "FLUSH_S", 0.05)
    team = Team.objects.create(slug="t", name="T")
    return lambda **plan: run_submit(
        team=team, user=None, kind="train", title="ada", spec={"adapter": "ada", "options": plan}
    )


def n_starts(run: Run) -> int:
    return len((workdir_of(run.pk) / "starts").read_text().splitlines())


def until(is_true: Callable[[], bool], *, for_s: float = 20) -> None:
    deadline = time.monotonic() + for_s
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_a_run_that_ends_well_is_published_once_with_its_figures(submit: Submit) -> None:
    run = submit(steps=3)
    assert supervise(run.pk) == "succeeded"
    run.refresh_from_db()
    assert run.state == Run.State.SUCCEEDED and run.attempt == 1 and run.owner == "" and run.lease_until is None
    assert run.result["metrics"] == {"test": {"accuracy": 0.9}}
    assert str(AdapterVersion.objects.get(run=run)) == "ada@1"
    assert [m.data["loss"] for m in run.metrics.all()] == [2.0, 1.0, 2.0 / 3]
    assert run.progress["done"] == run.progress["total"] == 3
    assert supervise(run.pk) == "not waiting"


def test_log_lines_and_library_chatter_are_kept_as_log(submit: Submit) -> None:
    run = submit()
    supervise(run.pk)
    lines = [line for event in run.events.filter(name="log") for line in event.data["lines"]]
    assert set(lines) == {"loading the model", "a library that prints"}
    assert list(run.events.filter(name="eval").values_list("data__metrics__accuracy", flat=True)) == [0.9]


def test_a_killed_child_is_tried_again_from_where_it_was(submit: Submit) -> None:
    run = submit(n_crashes=2)
    assert supervise(run.pk) == "attempt failed: killed"
    run.refresh_from_db()
    assert run.state == Run.State.QUEUED and run.attempt == 1 and run.outbox.count() == 2
    assert supervise(run.pk) == "attempt failed: killed"
    assert supervise(run.pk) == "succeeded"
    assert n_starts(run) == 3


def test_after_three_killed_attempts_it_fails_with_advice(submit: Submit) -> None:
    run = submit(n_crashes=9)
    for _ in range(3):
        supervise(run.pk)
    run.refresh_from_db()
    assert run.state == Run.State.FAILED and "SIGKILL" in run.error["message"] and "memory" in run.error["hint"]


@pytest.mark.parametrize("code", [64, 65, 69, 71, 72])
def test_what_trying_again_cannot_mend_fails_at_once_in_the_childs_own_words(submit: Submit, code: int) -> None:
    run = submit(fails_with=code)
    assert supervise(run.pk) == "failed: odd"
    run.refresh_from_db()
    assert run.state == Run.State.FAILED and run.error["hint"] == "Do it otherwise."


def test_a_silent_failure_still_says_what_to_do(submit: Submit) -> None:
    run = submit(fails_with=71, is_silent=True)
    supervise(run.pk)
    run.refresh_from_db()
    assert run.error["code"] == "out_of_memory" and "fewer rows" in run.error["hint"]


def test_an_unexpected_exit_uses_up_an_attempt(submit: Submit) -> None:
    run = submit(fails_with=70)
    supervise(run.pk)
    run.refresh_from_db()
    assert run.state == Run.State.QUEUED and run.attempt == 1


def test_a_damaged_result_is_refused_by_file_name(submit: Submit) -> None:
    run = submit(is_damaged=True)
    assert supervise(run.pk) == "failed: invalid_artifact"
    run.refresh_from_db()
    assert "adapter_model.safetensors" in run.error["message"] and not AdapterVersion.objects.exists()


def at_step(run: Run, action: Callable[[], None]) -> Callable[[Any], None]:
    """A stand-in for Watch._decide's first look: does something once the child has made a step."""
    done = threading.Event()
    decide = supervising.Watch._decide

    def wrapped(self: Any) -> None:
        if not done.is_set() and self.notes.progress.get("done"):
            done.set()
            action()
        decide(self)

    return wrapped


def test_cancelling_stops_the_child_after_its_checkpoint(submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    run = submit(steps=2000, step_s=0.02)
    outcomes: list[str] = []
    cancel = at_step(run, lambda: outcomes.append(run_cancel(run=run)))
    monkeypatch.setattr(supervising.Watch, "_decide", cancel)
    assert supervise(run.pk) == "cancelled"
    run.refresh_from_db()
    assert outcomes == ["stopping"] and run.state == Run.State.CANCELLED and run.finished_at
    assert run.events.filter(name="stopped").exists() and not AdapterVersion.objects.exists()


def test_a_deaf_child_is_killed_after_its_grace(submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    run = submit(steps=2000, step_s=0.02, is_deaf=True)
    monkeypatch.setattr(supervising, "GRACE_S", 0.2)
    monkeypatch.setattr(supervising.Watch, "_decide", at_step(run, lambda: run_cancel(run=run) and None))
    assert supervise(run.pk) == "cancelled"


def test_a_worker_told_to_stop_hands_the_run_back_without_using_up_an_attempt(
    submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = submit(steps=60, step_s=0.02)
    term = at_step(run, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with monkeypatch.context() as patch:
        patch.setattr(supervising.Watch, "_decide", term)
        assert supervise(run.pk) == "handed back"
    run.refresh_from_db()
    assert run.state == Run.State.QUEUED and run.attempt == 0
    assert supervise(run.pk) == "succeeded"
    assert n_starts(run) == 2 and run.metrics.count() == 60


def test_a_resumed_attempt_shows_what_the_earlier_one_reached(tmp_path: Path) -> None:
    notes = Notes(tmp_path, progress={"done": 40, "total": 100, "eta_s": 9, "text": "Stopping"})
    notes.add("event", {"event": "started", "n_steps": 100})
    assert notes.batch().progress == {"done": 40, "total": 100}


def test_a_database_that_goes_away_while_publishing_is_waited_for(
    submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishing began anew, found the run publishing already and took it for someone else's."""
    run, left = submit(), [2]

    def flaky(**values: Any) -> None:
        left[0] -= 1
        if left[0] > 0:
            raise OperationalError("server closed the connection")
        real(**values)

    real = verdict.publish
    monkeypatch.setattr(verdict, "publish", flaky)
    assert supervise(run.pk) == "succeeded" and AdapterVersion.objects.count() == 1


def test_a_child_that_stands_still_is_stopped_and_tried_again(submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    run = submit(steps=2, step_s=30)
    monkeypatch.setattr(supervising, "SILENCE_S", 0.3)
    monkeypatch.setattr(supervising, "GRACE_S", 0.2)
    assert supervise(run.pk) == "attempt failed: stalled"


def test_reading_that_takes_too_long_fails(submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    run = submit(steps=2000, step_s=0.02)
    assert supervise(run.pk, limit_s=0.3) == "failed: too_long"


def test_a_child_that_grows_beyond_its_memory_fails_with_advice(
    submit: Submit, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    run = submit(steps=2000, step_s=0.02)
    settings.RUN_MEMORY_BYTES = 1024
    monkeypatch.setattr(supervising, "WEIGH_S", 0.0)
    assert supervise(run.pk) == "failed: out_of_memory"
    run.refresh_from_db()
    assert "fewer rows" in run.error["hint"]


def test_who_lost_the_lease_kills_the_child_and_writes_nothing(submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    run = submit(steps=2000, step_s=0.02)

    def take_over() -> None:
        Run.objects.filter(pk=run.pk).update(state=Run.State.QUEUED)
        assert run_claim(run_id=run.pk, owner="another")

    monkeypatch.setattr(supervising.Watch, "_decide", at_step(run, take_over))
    assert supervise(run.pk) == "lost the lease"
    run.refresh_from_db()
    assert run.state == Run.State.LEASED and run.owner == "another"
    pid = int((workdir_of(run.pk) / "starts").read_text().split()[-1])
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_claim_lost_before_publishing_leaves_no_row(submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files may be in the storage already; they are found by content only, so nothing points at them."""
    run = submit()

    def publish_late(**values: Any) -> None:
        Run.objects.filter(pk=run.pk).update(fence=99)
        real(**values)

    real = verdict.publish
    monkeypatch.setattr(verdict, "publish", publish_late)
    assert supervise(run.pk) == "lost the lease"
    run.refresh_from_db()
    assert run.state == Run.State.PUBLISHING and not AdapterVersion.objects.exists()


def test_a_full_disk_while_publishing_registers_nothing(submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    from webapp import storage

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    run = submit()
    monkeypatch.setattr(storage, "put_folder", full)
    assert supervise(run.pk) == "failed: storage"
    run.refresh_from_db()
    assert "No space left" in run.error["message"] and not AdapterVersion.objects.exists()


def test_a_child_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.child import child_env

    for name in ("SECRET_KEY", "DATABASE_URL", "REDIS_URL", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hidden")
    assert "hidden" not in child_env().values()
