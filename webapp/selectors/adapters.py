"""Reads of the team library: the list, a version with what it is compared with, its lineage, its code to copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import BigIntegerField, Count, F, FloatField, OuterRef, QuerySet, Subquery, Sum
from django.db.models.fields.json import KT
from django.db.models.functions import Cast, Coalesce

from ml.errors import NotFoundError
from webapp.models import Adapter, AdapterVersion, Alias, BaseModel, PromptVersion, Team
from webapp.selectors.evaluation_pairs import Pair, newest_pair
from webapp.selectors.metrics import Measure, measure


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether an alias may move freely, and why not, for people."""

    is_held_back: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table of versions: what it is called and what it reached."""

    version: AdapterVersion
    test: Measure | None
    plain: Measure | None
    aliases: list[Alias]
    is_chosen: bool = False


def _points(a: Measure, b: Measure) -> str:
    return f"{100 * abs(a.value - b.value):.1f} points"


def alias_verdict(
    *, version: AdapterVersion | PromptVersion, incumbent: AdapterVersion | PromptVersion | None
) -> Verdict:
    """Free only when the version is better for certain on the same rows: by an evaluation of both where there is one,
    else when its whole interval in its own run lies above the incumbent's, on the same data set version."""
    if incumbent is None:
        return Verdict(is_held_back=False, text="nothing holds this alias yet.")
    pair = newest_pair(version, incumbent)
    if pair is not None:
        return _paired_verdict(pair, f"@{version.number}", f"@{incumbent.number}")
    new, old = measure(version.metrics), measure(incumbent.metrics)
    names = f"@{version.number}", f"@{incumbent.number}"
    if new is None:
        return Verdict(is_held_back=True, text=f"{names[0]} was not measured on test rows.")
    if old is None:
        return Verdict(is_held_back=True, text=f"{names[1]} was not measured, so nothing can be compared.")
    if version.dataset_version_id is None or version.dataset_version_id != incumbent.dataset_version_id:
        return Verdict(is_held_back=True, text=f"{names[0]} and {names[1]} were measured on different datasets.")
    if new.name != old.name or new.n_rows != old.n_rows:
        return Verdict(is_held_back=True, text=f"{names[0]} and {names[1]} were not measured on the same rows.")
    if new.has_interval and old.has_interval and new.low > old.high:
        return Verdict(is_held_back=False, text=f"{names[0]} is {_points(new, old)} above {names[1]}, for certain.")
    if new.high < old.low:
        return Verdict(is_held_back=True, text=f"{names[0]} is {_points(new, old)} below {names[1]}.")
    text = f"the intervals of {names[0]} and {names[1]} overlap: better was not shown."
    return Verdict(is_held_back=True, text=text)


def _paired_verdict(pair: Pair, new: str, old: str) -> Verdict:
    """By an evaluation of both on the same rows, which tells smaller differences than two separate intervals can."""
    found = pair.differences[0]
    where = f"on the same {pair.n_rows} {pair.left.split} rows of {pair.left.dataset_version}"
    if found.difference is None or found.says == "tied":
        return Verdict(is_held_back=True, text=f"{new} and {old} are tied {where}: better was not shown.")
    amount = f"{abs(found.difference) * found.scale:.1f} points" if found.metric.is_share else "clearly"
    if found.says == "left":
        return Verdict(is_held_back=False, text=f"{new} is {amount} better than {old} {where}, for certain.")
    return Verdict(is_held_back=True, text=f"{new} is {amount} worse than {old} {where}.")


def library(*, team: Team) -> QuerySet[Adapter]:
    """Adapters of the team that are in use, each with the version it shows: production, else the newest."""
    production = Alias.objects.filter(adapter=OuterRef("pk"), name="production").values("version_id")[:1]
    newest = AdapterVersion.objects.filter(adapter=OuterRef("pk")).order_by("-number")
    rows = Adapter.objects.for_team(team).filter(is_retired=False)
    rows = rows.annotate(
        shown_id=Coalesce(Subquery(production), Subquery(newest.values("pk")[:1]), output_field=BigIntegerField())
    )
    shown = AdapterVersion.objects.filter(pk=OuterRef("shown_id"))
    shown = shown.annotate(headline=Cast(KT("metrics__headline__value"), FloatField()))
    columns = ("method", "base_name", "size_bytes", "headline")
    return rows.filter(shown_id__isnull=False).annotate(
        **{column: Subquery(shown.values(column)[:1]) for column in columns},
        made=Subquery(newest.values("created_at")[:1]),
        data=Subquery(shown.values("dataset_version__dataset__name")[:1]),
    )


def with_shown(adapters: list[Adapter]) -> list[dict[str, Any]]:
    """Each adapter of a page with its shown version, measures and aliases, in three queries."""
    ids = [adapter.shown_id for adapter in adapters]  # type: ignore[attr-defined]
    versions = AdapterVersion.objects.select_related("created_by", "dataset_version__dataset").in_bulk(ids)
    aliases: dict[int, list[Alias]] = {}
    for alias in Alias.objects.select_related("version").filter(adapter__in=adapters):
        aliases.setdefault(alias.adapter_id, []).append(alias)
    return [
        {"adapter": adapter, "version": version, "test": measure(version.metrics),
         "aliases": aliases.get(adapter.pk, [])}
        for adapter in adapters
        for version in [versions[adapter.shown_id]]  # type: ignore[attr-defined]
    ]  # fmt: skip


def library_figures(*, team: Team) -> dict[str, Any]:
    """Counts over the whole library, for the head of the page."""
    versions = AdapterVersion.objects.for_team(team).filter(adapter__is_retired=False)
    figures = versions.aggregate(
        n_adapters=Count("adapter", distinct=True), n_versions=Count("pk"), n_bytes=Sum("size_bytes")
    )
    live = Alias.objects.for_team(team).filter(name="production", adapter__is_retired=False)
    bases = BaseModel.objects.filter(name__in=versions.values("base_name"))
    whole = {base.name: base.config.get("bytes", 0) for base in bases}
    as_models = sum(whole.get(name, 0) for name in versions.values_list("base_name", flat=True))
    retired = Adapter.objects.for_team(team).filter(is_retired=True)
    return {**figures, "n_production": live.count(), "as_models": as_models, "retired": list(retired)}


def adapter_of(*, team: Team, pk: int) -> Adapter:
    """The team's adapter. Raises NotFoundError."""
    adapter = Adapter.objects.for_team(team).select_related("created_by").filter(pk=pk).first()
    if adapter is None:
        raise NotFoundError("There is no such adapter in this team.", hint="Look in the library.")
    return adapter


def version_of(*, team: Team, pk: int, number: int) -> AdapterVersion:
    """A version of the team's adapter. Raises NotFoundError."""
    rows = AdapterVersion.objects.for_team(team).select_related(
        "adapter", "run", "dataset_version__dataset", "created_by", "team"
    )
    version = rows.filter(adapter_id=pk, number=number).first()
    if version is None:
        raise NotFoundError(f"There is no version {number} of this adapter in this team.", hint="Look in the library.")
    return version


def versions_of(*, adapter: Adapter, chosen: AdapterVersion | None = None) -> list[Row]:
    """All versions, newest first, with their aliases and measures."""
    aliases: dict[int, list[Alias]] = {}
    for alias in adapter.aliases.select_related("version"):
        aliases.setdefault(alias.version_id, []).append(alias)
    versions = list(adapter.versions.select_related("created_by", "run", "dataset_version__dataset"))
    return [
        Row(version=v, test=measure(v.metrics), plain=measure(v.metrics, "plain"), aliases=aliases.get(v.pk, []),
            is_chosen=chosen is not None and v.pk == chosen.pk)
        for v in versions
    ]  # fmt: skip


def rows_measured_on(rows: list[Row]) -> str:
    """The test rows that all these versions share, for a caption; empty when they differ."""
    places = {(str(row.version.dataset_version), row.test.n_rows) for row in rows if row.test}
    if len(places) != 1:
        return ""
    name, n_rows = places.pop()
    return f"all on the test rows of {name}" + (f", {n_rows} of them" if n_rows else "")


def default_version(*, adapter: Adapter) -> AdapterVersion | None:
    """What the page of an adapter opens at: production, else the newest."""
    production = adapter.aliases.filter(name="production").values("version_id")
    rows = adapter.versions.select_related("adapter", "run", "dataset_version__dataset", "created_by", "team")
    return rows.filter(pk__in=production).first() or rows.order_by(F("number").desc()).first()


def target_name(version: AdapterVersion) -> str:
    """How people and clients name this version: by `production` when it holds it, else by number."""
    is_production = version.aliases.filter(name="production").exists()
    return f"{version.adapter.name}@{'production' if is_production else version.number}"
