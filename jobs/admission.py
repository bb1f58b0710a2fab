"""Whether a training may begin: its planned memory beside what the engines on its device reserve.

Guarantees: a run waits only where draining engines would help, with the sizes in its `waiting_for`, and goes on within
seconds once there is room; being cancelled or the worker's end ends the wait, and nothing of the run is claimed before.
What has no plan is let through: a study, documents, a run that nobody can plan just now. So is what would not fit an
empty device: a plan is a warning, never a block. Room is what engines leave of the device, not what is free there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import psutil
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection

from jobs import stream
from jobs.commands import child_spec
from jobs.engine_budget import gb, rivals_on, room_of
from ml.errors import ColdframeError, UnavailableError
from webapp.models import Run
from webapp.selectors.runs import predicted_bytes

POLL_S = 3.0
PLAN_TIMEOUT_S = 20.0
"""The planner's first answer needs torch to be imported."""
Beats = Sequence[Mapping[str, Any]]
logger = logging.getLogger(__name__)


def shortage(planned: int, device: str, beats: Beats, *, machine_bytes: int) -> str:
    """Why a run of `planned` bytes waits for the engines on `device`, in words; "" when it may begin. How much a GPU
    has is known from its engines."""
    rivals = rivals_on(device, beats)
    on_gpu = max((int(beat.get("total_bytes") or 0) for beat in rivals), default=0)
    total = machine_bytes if device == "cpu" else on_gpu
    left, most = room_of(total, rivals, device=device), room_of(total, [], device=device)
    if not left < planned <= most:
        return ""
    names = sorted({str(beat.get("base")) for beat in rivals})
    whose = f"the engine of {names[0]:.50}" if len(rivals) == 1 else f"{len(rivals)} engines"
    return (
        f"Waits for memory: needs {gb(planned)}, {gb(left)} are left beside {whose}. "
        "Drain the engine (an admin, on the Engine page) or lower the rows at once."
    )


def wait_for_room(run_id: int, device: str, stop: threading.Event) -> None:
    """Returns once the run may begin, is no longer waiting, or `stop` is set."""
    run = Run.objects.select_related("dataset_version").filter(pk=run_id).first()
    if run is None or run.kind != Run.Kind.TRAIN or (settings.RUN_MEMORY_BYTES and device == "cpu"):
        return
    beats: Beats = []
    planned = 0
    while not stop.is_set():
        beats = _beats(otherwise=beats)
        if not rivals_on(device, beats):
            return
        planned = planned or planned_bytes(run, device)
        reason = shortage(planned, device, beats, machine_bytes=psutil.virtual_memory().total)
        if not reason or not _say(run_id, reason):
            return
        stop.wait(POLL_S)
    _say(run_id, "")  # whoever takes it next looks anew


def planned_bytes(run: Run, device: str) -> int:
    """The run's peak: of its own plan when it began once, else as an engine plans it; 0 when nobody can tell."""
    if known := predicted_bytes(run):
        return known
    version = run.dataset_version
    payload = {"spec": child_spec(run), "labels": len(version.labels or ()) if version else 0}
    try:
        said = stream.call_service("plan", payload, PLAN_TIMEOUT_S)
    except ColdframeError as error:
        logger.warning("run %s begins without a plan: %s", run.pk, error.message)
        return 0
    # An engine of another machine may have answered, for a device of another kind.
    return int(said["total"]) if (said["device"] == "cpu") == (device == "cpu") else 0


def _beats(*, otherwise: Beats) -> Beats:
    try:
        return stream.engines()
    except UnavailableError:
        return otherwise


def _say(run_id: int, reason: str) -> bool:
    """False when the run waits no more: it was cancelled, or another worker has it."""
    try:
        return bool(Run.objects.filter(pk=run_id, state=Run.State.QUEUED).update(waiting_for=reason[:200]))
    except DatabaseError as error:
        logger.warning("run %s: the database is away: %s", run_id, type(error).__name__)
        connection.close()
        return True
