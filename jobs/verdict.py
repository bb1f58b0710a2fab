"""What becomes of a run when its child has ended: published, cancelled, failed with advice, or back to the line.

The exit codes are those of `python -m ml` (ml/__main__.py). Guarantees: what trying again cannot mend fails at once;
the rest has three attempts; being stopped on purpose uses up none.
"""

from __future__ import annotations

import logging
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import batch, study
from jobs.commands import workdir_of
from jobs.notes import Notes
from jobs.publish import publish
from ml.errors import ColdframeError
from webapp.services.run_leases import (
    Claim,
    LostLeaseError,
    run_cancelled,
    run_fail,
    run_publishing,
    run_requeue,
)

logger = logging.getLogger(__name__)

STOPPED = 75
PERMANENT: dict[int, tuple[str, str, str]] = {
    64: ("invalid_spec", "The spec was refused.", "The log says which setting. Clone the run and change it."),
    65: ("invalid_data", "The data was refused.", "The log says which rows. Mend the file and upload it anew."),
    69: ("invalid_model", "The base model is missing or cannot be used.", "`make models` fetches the starter models."),
    71: (
        "out_of_memory", "There was not enough memory.",
        "Clone the run with fewer rows at once, shorter rows, or a technique that trains less.",
    ),
    72: ("diverged", "The loss became infinite or never fell.", "Clone the run with another learning rate."),
    74: ("storage", "The disk is full.", "Make room on the disk of <var>, then retry: it goes on from its checkpoint."),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a child ended: its exit code, why it was asked to stop ("" when it was not), what it had said."""

    claim: Claim
    code: int
    reason: str
    notes: Notes


def conclude(ending: Ending) -> str:
    """Moves the run on; returns what became of it, for the log. What a study or a batch had finished is kept
    in any case."""
    outcome = _conclude(ending)
    for kind in (study, batch):
        kind.keep(ending.claim.run_id, workdir_of(ending.claim.run_id))
    return outcome


def _conclude(ending: Ending) -> str:
    claim, code, reason = ending.claim, ending.code, ending.reason
    if code == 0 and ending.notes.finished is not None:
        known = {key: value for key, value in ending.notes.progress.items() if key == "n_trainable"}
        return _publish(claim, {**known, **ending.notes.finished})
    if reason == "cancel":
        return "cancelled" if run_cancelled(claim=claim) else "lost the lease"
    if reason == "restart" or (reason == "" and code == STOPPED):
        # A child that stops by itself again and again must not go round for ever.
        held = run_requeue(claim=claim, consumes_attempt=reason == "", error=error_of(ending))
        return "handed back" if held else "lost the lease"
    error = error_of(ending)
    if code in PERMANENT or reason in ("limit", "memory"):
        return f"failed: {error['code']}" if run_fail(claim=claim, error=error) else "lost the lease"
    held = run_requeue(claim=claim, consumes_attempt=True, error=error)
    return f"attempt failed: {error['code']}" if held else "lost the lease"


def _publish(claim: Claim, finished: dict[str, Any]) -> str:
    if not run_publishing(claim=claim):
        return "cancelled" if run_cancelled(claim=claim) else "lost the lease"
    folder = workdir_of(claim.run_id).resolve()
    out = Path(finished.get("out") or folder / "out").resolve()
    if not out.is_relative_to(folder):
        out = folder / "out"
    try:
        publish(claim=claim, out=out, finished=finished)
    except LostLeaseError:
        return "lost the lease"
    except ColdframeError as error:
        logger.error("run %s cannot be published: %s", claim.run_id, error.message)
        if error.permanent:
            run_fail(claim=claim, error=error.as_dict())
            return f"failed: {error.code}"
        run_requeue(claim=claim, consumes_attempt=True, error=error.as_dict())
        return f"not published: {error.code}"
    except OSError as error:
        failure = ColdframeError(
            f"The result could not be stored: {error.strerror or error}.",
            hint="Make room on the disk of <var>, then retry: what is trained is not trained again.", code="storage",
        )  # fmt: skip
        run_fail(claim=claim, error=failure.as_dict())
        return "failed: storage"
    return "succeeded"


def error_of(ending: Ending) -> dict[str, Any]:
    """The child's own words where it had any, else what its end means."""
    if ending.notes.failed is not None:
        return ending.notes.failed
    code, message, hint = PERMANENT.get(ending.code) or _unexplained(ending)
    return {"code": code, "message": message, "hint": hint, "field": "", "permanent": ending.code in PERMANENT}


def _unexplained(ending: Ending) -> tuple[str, str, str]:
    if ending.reason == "stall":
        return "stalled", "The run stood still for too long and was stopped.", "The log shows where it stood."
    if ending.reason == "memory":
        code, _, hint = PERMANENT[71]
        return code, "The process grew beyond the memory a run may hold.", hint
    if ending.reason == "limit":
        return "too_long", "Reading took too long and was stopped.", "Split the file into smaller ones."
    if ending.code < 0:
        name = signal.Signals(-ending.code).name if -ending.code in set(signal.Signals) else str(-ending.code)
        hint = "SIGKILL mostly means that the machine ran out of memory: try fewer rows at once or shorter rows."
        return "killed", f"The process was ended by {name}.", hint if name == "SIGKILL" else "The log may say why."
    return "unexpected", f"The process ended with exit code {ending.code} and no result.", "The log may say why."
