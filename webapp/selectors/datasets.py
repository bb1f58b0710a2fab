"""Data sets as pages show them: lists with their newest version, one version with its counts as bar geometry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Max, QuerySet

from ml.errors import NotFoundError
from ml.specs import TASK_KINDS
from webapp.models import Dataset, DatasetVersion, Run, Team, Upload

SPLITS = ("train", "validation", "test")
MAX_LABELS = 60
HIST_LEFT, HIST_FLOOR, HIST_TOP = 5.2, 88.0, 8.0
"""The histogram's axis begins here, and spans these heights, in per cent of the drawing."""


def datasets_of(team: Team, *, with_archived: bool = False) -> QuerySet[Dataset]:
    rows = Dataset.objects.for_team(team).annotate(
        n_versions=Count("versions"), newest=Max("versions__number"), stored_at=Max("versions__created_at")
    )
    return rows if with_archived else rows.filter(is_archived=False)


def dataset_of(team: Team, pk: int) -> Dataset:
    found = Dataset.objects.for_team(team).filter(pk=pk).first()
    if found is None:
        raise NotFoundError(f"There is no data set {pk} in this team.", hint="It may have been removed.")
    return found


def version_of(dataset: Dataset, number: str | int = "") -> DatasetVersion:
    """The version of that number, or the newest. Raises NotFoundError."""
    versions = dataset.versions.select_related("dataset", "created_by", "run")
    text = str(number)
    found = versions.filter(number=int(text)).first() if text.isdecimal() and len(text) < 9 else None
    if not text:
        found = versions.first()
    if found is None:
        known = ", ".join(f"@{n}" for n in versions.values_list("number", flat=True)[:10]) or "none"
        raise NotFoundError(f"{dataset.name} has no version {text[:20]!r}.", hint=f"Versions: {known}.")
    return found


def split_bar(splits: dict[str, int]) -> list[dict[str, Any]]:
    """Three bars that fill 100 %, with a gap between; widths are shares of the rows."""
    total = sum(splits.values()) or 1
    bars, x = [], 0.0
    for place, name in enumerate(SPLITS, start=1):
        share = 100 * splits.get(name, 0) / total
        width = max(0.0, share - 0.8) if share < 100 else 100.0
        bars.append({"name": name, "n": splits.get(name, 0), "x": f"{x:.2f}%", "width": f"{width:.2f}%", "fill": place})
        x += share
    return bars


def flags_of(version: DatasetVersion) -> list[tuple[str, str]]:
    """(severity, words) for what a person should know: `no` for leaks, `tight` for the rest."""
    stats = version.stats
    n_twins = sum(1 for row in stats.get("labels", []) if row["twin_of"])
    found = [
        ("no", stats.get("leakage", {}).get("n", 0), "rows leak", "row leaks"),
        ("tight", n_twins, "casing twins", "casing twin"),
        ("tight", stats.get("duplicates", {}).get("n", 0), "duplicates", "duplicate"),
        ("tight", stats.get("contradictions", {}).get("n", 0), "contradictions", "contradiction"),
        ("tight", stats.get("n_left_out", 0), "rows left out", "row left out"),
    ]
    flags = [(kind, f"{n:,} {one if n == 1 else many}") for kind, n, many, one in found if n]
    codes = {warning["code"] for warning in stats.get("warnings", [])}
    flags += [("tight", words) for code, words in (
        ("one_row", "one row"), ("one_label", "one label"), ("no_test", "no test rows"),
        ("no_validation", "no validation rows"), ("many_labels", "many labels")) if code in codes]  # fmt: skip
    return flags


@dataclass(frozen=True, kw_only=True)
class Card:
    """A data set in the list."""

    dataset: Dataset
    version: DatasetVersion | None
    bars: list[dict[str, Any]]
    flags: list[tuple[str, str]]
    last_run: Run | None
    n_versions: int

    @property
    def task(self) -> str:
        return task_words(self.version) if self.version else "–"


def task_words(version: DatasetVersion) -> str:
    """The task kind in a word or two; labels with their number."""
    kind = TASK_KINDS.get(version.task)
    if kind is None:
        return version.task
    return f"{kind.short}, {len(version.labels or []):,}" if kind.learnt_as == "classification" else kind.short


def cards_of(datasets: Sequence[Dataset]) -> list[Card]:
    """Two queries, whatever the number of data sets."""
    versions: dict[int, DatasetVersion] = {}
    runs: dict[int, Run] = {}
    for version in DatasetVersion.objects.filter(dataset__in=datasets).select_related("dataset").order_by("number"):
        versions[version.dataset_id] = version
    for run in (
        Run.objects.filter(dataset_version__dataset__in=datasets).select_related("dataset_version").order_by("pk")
    ):
        runs[run.dataset_version.dataset_id] = run
    return [
        Card(
            dataset=dataset, version=(version := versions.get(dataset.pk)),
            bars=split_bar(version.splits) if version else [], flags=flags_of(version) if version else [],
            last_run=runs.get(dataset.pk), n_versions=dataset.n_versions,
        )
        for dataset in datasets
    ]  # fmt: skip


def figures_of(team: Team, cards: Iterable[Card]) -> dict[str, Any]:
    shown = [card.version for card in cards if card.version]
    return {
        "n_versions": DatasetVersion.objects.for_team(team).count(),
        "n_archived": Dataset.objects.for_team(team).filter(is_archived=True).count(),
        "n_rows": sum(version.n_rows for version in shown),
        "n_worrying": sum(1 for version in shown if any(kind == "no" for kind, _ in flags_of(version))),
        "n_uploads": open_uploads(team).count(),
    }


def open_uploads(team: Team) -> QuerySet[Upload]:
    """Files that were brought and are no version yet."""
    return Upload.objects.for_team(team).exclude(state=Upload.State.USED).defer("report", "preview")


def label_rows(version: DatasetVersion) -> dict[str, Any]:
    """Labels with bar widths; the long tail is counted, not drawn."""
    rows = version.stats.get("labels", [])
    most = max((row["n"] for row in rows), default=0) or 1
    total = sum(row["n"] for row in rows) or 1
    shown = [
        {**row, "width": f"{max(1.0, 100 * row['n'] / most):.1f}%", "share": row["n"] / total}
        for row in rows[:MAX_LABELS]
    ]
    return {"rows": shown, "n_more": max(0, len(rows) - MAX_LABELS), "n": len(rows)}


def majority_of(version: DatasetVersion) -> dict[str, Any] | None:
    """The most frequent label of train and how often it is right on test: what any method must beat."""
    rows = version.stats.get("labels", [])
    n_test = sum(row["splits"]["test"] for row in rows)
    if not rows or not n_test:
        return None
    best = max(rows, key=lambda row: row["splits"]["train"])
    return {"label": best["label"], "share": best["splits"]["test"] / n_test}


def histogram_of(lengths: dict[str, Any]) -> dict[str, Any]:
    """Bars of a length histogram as SVG geometry; heights by square root, so that the tail shows."""
    counts = lengths.get("bars") or []
    if not any(counts):
        return {}
    filled = [place for place, n in enumerate(counts) if n]
    first, last = max(0, filled[0] - 1), max(filled[-1] + 1, min(filled[0] + 3, len(counts)))
    counts = counts[first:last]
    highest = max(counts) ** 0.5
    slot = (100 - HIST_LEFT) / len(counts)
    bars = []
    for place, n in enumerate(counts):
        low = (first + place) * lengths["step"]
        height = (HIST_FLOOR - HIST_TOP) * n**0.5 / highest
        bars.append({
            "x": f"{HIST_LEFT + place * slot + slot * 0.06:.2f}%", "width": f"{slot * 0.88:.2f}%",
            "y": f"{HIST_FLOOR - height:.2f}%", "height": f"{height:.2f}%", "n": n,
            "low": low, "high": low + lengths["step"] - 1,
        })  # fmt: skip
    marks = range(0, len(counts) + 1, max(1, len(counts) // 4))
    ticks = [
        {"x": f"{HIST_LEFT + place * slot:.2f}%", "text": f"{(first + place) * lengths['step']:,}"} for place in marks
    ]
    return {**lengths, "bars": bars, "ticks": ticks, "most": max(counts), "left": f"{HIST_LEFT}%"}


def uses_of(version: DatasetVersion) -> dict[str, Any]:
    return {
        "n_runs": version.runs.count(),
        "adapters": list(version.adapter_versions.select_related("adapter").order_by("-created_at")[:3]),
    }
