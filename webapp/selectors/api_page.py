"""What the API page fills its examples with: the team's own names, and what it has under way just now. Reads only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from jobs import stream
from ml.errors import UnavailableError
from ml.specs import METHODS, writes_text
from webapp.models import AdapterVersion, Collection, DatasetVersion, Team
from webapp.selectors.chat_page import label_of
from webapp.selectors.targets import BASE, choices, names_of_team, why_unserved

N_SHOWN, N_LABELS = 8, 6
LABELS = ("outage", "billing", "internet")
"""Where the team has no labels of its own."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """An adapter that picks a label, for the example of choices."""

    name: str = BASE
    now: str = BASE
    labels: tuple[str, ...] = LABELS

    @property
    def as_json(self) -> str:
        return json.dumps(self.labels, ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class Busy:
    """What of the engines the team has just now."""

    n_rows: int
    n_slots: int
    n_unfinished: int

    @property
    def share(self) -> float:
        return min(100.0, 100 * self.n_rows / self.n_slots) if self.n_slots else 0.0


def names_shown(team: Team) -> dict[str, Any]:
    """The name that the examples ask, some names with what they are, and how many there are."""
    found = [choice for choice in choices(team) if not choice.unserved]
    own = next((c for c in found if c.name.endswith("@production")), None) or next(iter(found[1:]), found[0])
    return {
        "own": own.name, "n_names": len(names_of_team(team)),
        "names": [{"choice": choice, "kind": label_of(choice.method)} for choice in found[:N_SHOWN]],
    }  # fmt: skip


def labelled(team: Team) -> Labelled:
    versions = AdapterVersion.objects.for_team(team).filter(
        adapter__is_retired=False, dataset_version__task="classification"
    )
    for version in versions.select_related("adapter", "dataset_version").order_by("-pk")[:N_SHOWN]:
        labels = tuple((version.dataset_version.labels or [])[:N_LABELS])
        if len(labels) > 1 and writes_text(version.form) and not why_unserved(version):
            return Labelled(name=version.adapter.name, now=str(version), labels=labels)
    return Labelled()


def run_example(team: Team) -> dict[str, str]:
    """A training run that could be started now."""
    newest = DatasetVersion.objects.for_team(team).select_related("dataset").order_by("-pk").first()
    name = newest.dataset.name if newest else "my-data"
    return {"adapter": name, "dataset": str(newest) if newest else "my-data@1", "method": next(iter(METHODS))}


def a_collection(team: Team) -> str:
    return Collection.objects.for_team(team).values_list("name", flat=True).first() or ""


def busy(team: Team) -> Busy | None:
    """None while Redis is away."""
    try:
        engines, n_unfinished = stream.engines(), stream.unfinished(team.pk)
    except UnavailableError:
        return None
    rows = [row for engine in engines for row in engine.get("rows") or [] if row.get("team_id") == team.pk]
    n_slots = sum(int(engine.get("slots") or 0) for engine in engines)
    return Busy(n_rows=len(rows), n_slots=n_slots, n_unfinished=max(n_unfinished, len(rows)))
