"""Pages of the team library: the list, a version's page, its download, and what moves or retires it."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

from ml.errors import ColdframeError, NotFoundError
from ml.specs import METHODS, how_served
from webapp import storage
from webapp.archive import azip_pieces, files_of
from webapp.forms.adapters import AdapterForm, AliasForm
from webapp.forms.exchange import HubForm
from webapp.listing import listing
from webapp.models import Adapter, AdapterVersion
from webapp.policy import policy
from webapp.selectors import adapters as selectors
from webapp.selectors import exchange as exchange_selectors
from webapp.selectors.cards import Block, read_card
from webapp.selectors.evaluations import figures_of
from webapp.selectors.metrics import measure
from webapp.selectors.targets import why_unserved
from webapp.services import adapters as services
from webapp.services.aliases import PRODUCTION
from webapp.views import exchange

SORTABLE = {
    "name": "name", "method": "method", "metric": "headline", "size": "size_bytes", "base": "base_name", "made": "made"
}  # fmt: skip


@policy("viewer")
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    rows = selectors.library(team=request.team)
    found = listing(
        request, rows, search=("name", "description", "data", "method", "base_name"), sortable=SORTABLE,
        default="-made", exact={"method": "method", "base": "base_name"},
    )  # fmt: skip
    versions = AdapterVersion.objects.for_team(request.team)
    context = {
        "listing": found,
        "rows": selectors.with_shown(list(found)),
        "figures": selectors.library_figures(team=request.team),
        "methods": [METHODS[m] for m in versions.values_list("method", flat=True).distinct() if m in METHODS],
        "bases": sorted(set(versions.values_list("base_name", flat=True))),
        "may_write": request.principal.may("member"),
    }
    return render(request, "adapters/index.html", context)


def _card(version: AdapterVersion) -> list[Block]:
    try:
        return read_card(storage.path_of(version.storage_key))
    except ColdframeError:
        return []


def _page(request: HttpRequest, adapter: Adapter, version: AdapterVersion | None, **extra: Any) -> HttpResponse:
    rows = selectors.versions_of(adapter=adapter, chosen=version)
    incumbent = next((row for row in rows if any(a.name == "production" for a in row.aliases)), None)
    context = {
        "adapter": adapter, "version": version, "rows": rows, "incumbent": incumbent,
        "chosen": next((row for row in rows if row.is_chosen), None), "measured_on": selectors.rows_measured_on(rows),
        "alias_form": AliasForm(versions=[row.version for row in rows], initial=_first_move(rows, incumbent)),
        "form": AdapterForm.of(adapter),
        "card": _card(version) if version else [], "api_url": request.build_absolute_uri("/v1"),
        "target": selectors.target_name(version) if version else "",
        "unserved": why_unserved(version) if version else "",
        "served": how_served(version.form) if version else "",
        **_exchange(version), "evaluations": figures_of(version) if version else [],
        "studied": version.study_entries.select_related("study").first() if version else None,
        "may_write": request.principal.may("member"), "may_retire": request.principal.may("admin"), **extra,
    }  # fmt: skip
    return render(request, "adapters/detail.html", context, status=422 if extra.get("error") else 200)


def _exchange(version: AdapterVersion | None) -> dict[str, Any]:
    """What can be taken out of a version, and what was."""
    if version is None:
        return {}
    return {
        "exports": exchange_selectors.exports_of(version), "why_not_merged": exchange_selectors.why_not(version),
        "hub_form": HubForm(initial={"repo": version.adapter.name}) if exchange_selectors.has_hub() else None,
    }  # fmt: skip


def _first_move(rows: list[selectors.Row], incumbent: selectors.Row | None) -> dict[str, Any]:
    """What the form for moving an alias starts at: the newest version that is not in production."""
    others = [row.version.number for row in rows if incumbent is None or row.version.pk != incumbent.version.pk]
    return {"version": others[0] if others else None, "name": PRODUCTION if others else "staging"}


@policy("viewer")
@require_GET
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    adapter = selectors.adapter_of(team=request.team, pk=pk)
    return _page(request, adapter, selectors.default_version(adapter=adapter))


@policy("viewer")
@require_GET
def version(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    found = selectors.version_of(team=request.team, pk=pk, number=number)
    return _page(request, found.adapter, found)


@policy("viewer")
@require_GET
def download(request: HttpRequest, pk: int, number: int) -> StreamingHttpResponse:
    """The PEFT folder as a zip, made while it is sent."""
    found = selectors.version_of(team=request.team, pk=pk, number=number)
    names = [*found.manifest.get("files", {}), "manifest.json"]
    files = files_of(storage.path_of(found.storage_key), names)
    root = f"{found.adapter.name}-v{found.number}"
    response = StreamingHttpResponse(azip_pieces(files, root=root), content_type="application/zip")
    response.headers["Content-Disposition"] = f'attachment; filename="{root}.zip"'
    return response


@policy("member")
@require_POST
def move_alias(request: HttpRequest, pk: int) -> HttpResponse:
    adapter = selectors.adapter_of(team=request.team, pk=pk)
    form = AliasForm(request.POST, versions=list(adapter.versions.all()))
    if form.is_valid():
        wanted = selectors.version_of(team=request.team, pk=pk, number=form.cleaned_data["version"])
        name, reason = form.cleaned_data["name"], form.cleaned_data["reason"]
        try:
            alias = services.alias_move(version=wanted, name=name, user=request.user, reason=reason)
        except ColdframeError as error:
            form.add_error(error.field if error.field in form.fields else None, f"{error.message} {error.hint}".strip())
        else:
            messages.success(request, f"{alias} is version {wanted.number} now.")
            return redirect("adapters:detail", pk=pk)
    return _page(request, adapter, selectors.default_version(adapter=adapter), alias_form=form, error=True)


@policy("member")
@require_POST
def edit(request: HttpRequest, pk: int) -> HttpResponse:
    adapter = selectors.adapter_of(team=request.team, pk=pk)
    form = AdapterForm(request.POST)
    if form.is_valid():
        try:
            services.adapter_edit(adapter=adapter, user=request.user, **form.cleaned_data)
        except ColdframeError as error:
            form.add_error(error.field if error.field in form.fields else None, f"{error.message} {error.hint}".strip())
            adapter.refresh_from_db()
        else:
            messages.success(request, f"{adapter.name} was saved.")
            return redirect("adapters:detail", pk=pk)
    return _page(request, adapter, selectors.default_version(adapter=adapter), form=form, error=True)


@policy("admin")
@require_POST
def retire(request: HttpRequest, pk: int) -> HttpResponse:
    adapter = selectors.adapter_of(team=request.team, pk=pk)
    wanted = request.POST.get("state")
    if wanted not in ("retired", "in use"):
        raise NotFoundError(f"An adapter is retired or in use, not {str(wanted)[:40]!r}.")
    services.adapter_retire(adapter=adapter, user=request.user, is_retired=wanted == "retired")
    if adapter.is_retired:
        messages.info(request, f"{adapter.name} is retired. Its versions are kept; an admin can bring it back.")
        return redirect("adapters:index")
    messages.success(request, f"{adapter.name} is in use again.")
    return redirect("adapters:detail", pk=pk)


@policy("viewer")
@require_GET
def verdict(request: HttpRequest, pk: int) -> HttpResponse:
    """What moving `production` to the version chosen in the form would meet; asked for by htmx."""
    adapter = selectors.adapter_of(team=request.team, pk=pk)
    number, name = request.GET.get("version", ""), request.GET.get("name", "").strip()
    wanted = adapter.versions.filter(number=int(number)).first() if number.isdecimal() else None
    alias = adapter.aliases.select_related("version").filter(name=name).first()
    context: dict[str, Any] = {"wanted": wanted, "name": name, "alias": alias}
    if wanted is not None:
        incumbent = alias.version if alias else None
        context["verdict"] = selectors.alias_verdict(version=wanted, incumbent=incumbent)
        context["is_gated"] = name == PRODUCTION
        context["test"] = measure(wanted.metrics)
    return render(request, "adapters/_verdict.html", context)


urlpatterns = [
    *exchange.urlpatterns,
    path("", index, name="index"),
    path("<int:pk>/", detail, name="detail"),
    path("<int:pk>/alias", move_alias, name="alias"),
    path("<int:pk>/verdict", verdict, name="verdict"),
    path("<int:pk>/edit", edit, name="edit"),
    path("<int:pk>/retire", retire, name="retire"),
    path("<int:pk>/<int:number>/", version, name="version"),
    path("<int:pk>/<int:number>/download", download, name="download"),
]
