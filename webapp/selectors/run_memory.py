"""The memory that a run being typed will need, as an engine plans it, made ready for a bar and a few words.

The web does not compute it: it asks (jobs/planner.py answers). Nothing here raises: without an answer there is a
sentence that says why. The free memory is that of the engine's machine at this moment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs import stream
from ml.errors import ColdframeError, UnavailableError
from ml.specs import METHODS
from webapp.forms.run_fields import own_fields
from webapp.forms.runs import TrainForm

TIMEOUT_S = 3.0
REMEDIES_TIMEOUT_S = 20.0
NO_ENGINE = "The plan comes when the run starts: no engine is there to ask."
BUSY = "Planning the memory takes longer than usual; asking again …"
WORDS = {"fits": "Fits", "tight": "Tight", "does_not_fit": "Does not fit"}
_LOOKS = {"fits": "cf-ok", "tight": "cf-tight", "does_not_fit": "cf-no"}
_PARTS = (
    ("frozen model", "f-frostfill", ("weights",)),
    ("trained weights", "f-grown", ("trainables",)),
    ("gradients, optimizer", "f-soft", ("gradients", "optimizer")),
    ("activations", "f-frost", ("activations", "buffers")),
    ("the process itself", "f-ink", ("runtime",)),
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of the bar, in per cent of its width, and its line in the legend."""

    label: str
    look: str
    n_bytes: int
    x: str
    width: str


@dataclass(frozen=True, kw_only=True)
class Fix:
    """A change of the form that makes the run smaller."""

    text: str
    saved: int
    word: str
    inputs: str
    """JSON: the form's inputs by their new value."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What the panel shows; `problem` alone when there is no plan."""

    problem: str = ""
    is_busy: bool = False
    """The plan may be there in a moment, as when the planner has only just been started."""
    verdict: str = ""
    word: str = ""
    look: str = ""
    total: int = 0
    free: int = 0
    device: str = ""
    parts: list[Part] = field(default_factory=list)
    limit: str = ""
    """Where the free memory ends on the bar, in per cent."""
    fixes: list[Fix] = field(default_factory=list)


def memory_of(form: TrainForm, *, wants_fixes: bool = False) -> Memory:
    """The plan of a bound form; with `wants_fixes` also what would make it fit, which takes longer."""
    if not form.is_valid() or form.spec is None:
        return Memory(problem="The memory is planned once nothing is left to mend.")
    version = form.version
    payload = {
        "spec": form.spec.as_dict(), "labels": len(version.labels or ()) if version else 0, "remedies": wants_fixes,
    }  # fmt: skip
    try:
        if not stream.serving("", stream.engines()):
            return Memory(problem=NO_ENGINE)
        said = stream.call_service("plan", payload, REMEDIES_TIMEOUT_S if wants_fixes else TIMEOUT_S)
    except UnavailableError:
        return Memory(problem=BUSY, is_busy=True)
    except ColdframeError as error:
        return Memory(problem=f"{error.message} {error.hint}".strip())
    return _shown(said, form)


def _shown(said: Mapping[str, Any], form: TrainForm) -> Memory:
    total, free = int(said["total"]), int(said["free"])
    scale, at, parts = max(total, free, 1), 0.0, []
    for label, look, names in _PARTS:
        n_bytes = sum(int(said.get(name) or 0) for name in names)
        width = 100 * n_bytes / scale
        if n_bytes:
            parts.append(Part(label=label, look=look, n_bytes=n_bytes, x=f"{at:.2f}%", width=f"{width:.2f}%"))
        at += width
    verdict = str(said["verdict"])
    return Memory(
        verdict=verdict, word=WORDS[verdict], look=_LOOKS[verdict], total=total, free=free,
        device="GPU" if str(said["device"]).startswith("cuda") else "processor", parts=parts,
        limit=f"{100 * free / scale:.2f}%", fixes=[_fix(remedy, form) for remedy in said.get("remedies") or ()],
    )  # fmt: skip


def _fix(remedy: Mapping[str, Any], form: TrainForm) -> Fix:
    changes = dict(remedy["changes"])
    method = METHODS[str(changes.get("method", form.chosen.name))]
    kept = {own.name for own in own_fields(method)}
    plain = {name.rpartition(".")[2]: value for name, value in changes.items()}
    inputs = {f"{method.name}-{name}" if name in kept else name: value for name, value in plain.items()}
    return Fix(
        text=str(remedy["text"]), saved=int(remedy["saved"]), word=WORDS[str(remedy["verdict"])].lower(),
        inputs=json.dumps(inputs),
    )  # fmt: skip
