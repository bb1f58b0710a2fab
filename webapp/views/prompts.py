"""Pages of the prompt library: list, editor, a prompt's versions, their differences and aliases. Trying: prompt_try."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from ml.errors import ColdframeError
from webapp.forms.adapters import AliasForm
from webapp.forms.prompts import PromptForm
from webapp.listing import listing
from webapp.models import Prompt, PromptVersion
from webapp.policy import policy
from webapp.selectors import prompts as selectors
from webapp.selectors.adapters import alias_verdict
from webapp.selectors.diffs import side_by_side
from webapp.selectors.evaluations import figures_of
from webapp.selectors.metrics import measure
from webapp.selectors.targets import why_prompt_unserved
from webapp.services import prompts as services
from webapp.services.aliases import PRODUCTION
from webapp.services.prompt_content import content_check
from webapp.views import prompt_try

SORTABLE = {"name": "name", "technique": "technique", "changed": "changed"}


@policy("viewer")
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    found = listing(
        request, selectors.prompt_list(team=request.team), search=("name", "description", "template"),
        sortable=SORTABLE, default="-changed", exact={"technique": "technique"},
    )  # fmt: skip
    context = {
        "listing": found, "rows": selectors.with_aliases(list(found)), "techniques": selectors.TECHNIQUES,
        "glyphs": selectors.GLYPHS,
    }  # fmt: skip
    return render(request, "prompts/index.html", context)


def _editor(
    request: HttpRequest, form: PromptForm, prompt: Prompt | None, *, status: int = 0, **extra: Any
) -> HttpResponse:
    context = {
        "form": form, "prompt": prompt, "techniques": selectors.TECHNIQUES, "sample": prompt_try.SAMPLE,
        "chosen": form["technique"].value(), "pick": form["pick"].value() or "fixed",
        "picks": PromptVersion.Pick.choices,
        "step_by_step": selectors.STEP_BY_STEP, "known": selectors.known_placeholders(form.datasets), **extra,
    }  # fmt: skip
    return render(request, "prompts/edit.html", context, status=status or (422 if form.is_bound else 200))


def _saved(request: HttpRequest, version: PromptVersion) -> HttpResponse:
    messages.success(request, f"{version} is saved. A version never changes.")
    return redirect("prompts:version", pk=version.prompt_id, number=version.number)


@policy("member")
@require_http_methods(["GET", "HEAD", "POST"])
def new(request: HttpRequest) -> HttpResponse:
    form = PromptForm(request.POST if request.method == "POST" else None, team=request.team)
    if form.is_bound and form.is_valid():
        named = {key: form.cleaned_data[key] for key in ("name", "description")}
        try:
            version = services.prompt_create(team=request.team, user=request.user, **named, **form.content)
        except ColdframeError as error:
            form.refuse(error)
        else:
            return _saved(request, version)
    return _editor(request, form, None)


@policy("member")
@require_http_methods(["GET", "HEAD", "POST"])
def new_version(request: HttpRequest, pk: int) -> HttpResponse:
    prompt = selectors.prompt_of(team=request.team, pk=pk)
    newest = selectors.version_of(prompt=prompt)
    if request.method != "POST":
        return _editor(request, PromptForm.of(newest), prompt, newest=newest)
    form = PromptForm(request.POST, is_new=False, team=request.team)
    if form.is_valid():
        base = form.cleaned_data.get("base")
        try:
            version = services.version_create(prompt=prompt, user=request.user, base=base, **form.content)
        except ColdframeError as error:
            if error.code == "conflict":
                return _conflict(request, form, prompt, error)
            form.refuse(error)
        else:
            return _saved(request, version)
    return _editor(request, form, prompt, newest=newest)


def _conflict(request: HttpRequest, form: PromptForm, prompt: Prompt, error: ColdframeError) -> HttpResponse:
    """Somebody saved meanwhile: both are shown, and saving once more is then a decision."""
    theirs = selectors.version_of(prompt=prompt)
    mine = selectors.draft_of(content_check(**form.content), prompt)
    diff = side_by_side(selectors.as_text(theirs), selectors.as_text(mine))
    form.data = form.data.copy()
    form.data["base"] = str(theirs.number)
    return _editor(request, form, prompt, status=409, conflict=error, theirs=theirs, diff=diff, newest=theirs,
                   left_name=f"theirs, @{theirs.number}", right_name="yours, not saved yet")  # fmt: skip


def _page(request: HttpRequest, prompt: Prompt, version: PromptVersion, **extra: Any) -> HttpResponse:
    rows = selectors.versions_of(prompt)
    place = next(i for i, row in enumerate(rows) if row.pk == version.pk)
    right = selectors.picked(rows, request.GET.get("right"), place)
    left = selectors.picked(rows, request.GET.get("left"), place + 1)
    aliases = selectors.aliases_of(prompt)
    production = next((a.version for row in aliases.values() for a in row if a.name == PRODUCTION), None)
    context = {
        "prompt": prompt, "version": version, "rows": selectors.version_rows(rows, aliases), "left": left,
        "right": right, "left_name": f"@{left.number}", "right_name": f"@{right.number}", 
        "technique": selectors.technique_named(version.technique), "glyphs": selectors.GLYPHS,
        "diff": side_by_side(selectors.as_text(left), selectors.as_text(right)) if len(rows) > 1 else None,
        "sent": selectors.messages_for(version, selectors.sample_for(version)), "sample": selectors.sample_for(version),
        "facts": selectors.facts_of(version), "aliases": aliases.get(version.pk, []), "production": production,
        "target": selectors.call_name(version), "chat_target": f"prompt:{version}",
        "gone": why_prompt_unserved(version), "evaluations": figures_of(version),
        "alias_form": AliasForm(versions=rows, initial=_first_move(rows, production)),
        "api_url": request.build_absolute_uri("/v1"), "may_write": request.principal.may("member"), **extra,
    }  # fmt: skip
    return render(request, "prompts/detail.html", context, status=422 if extra.get("error") else 200)


def _first_move(rows: list[PromptVersion], production: PromptVersion | None) -> dict[str, Any]:
    """What the form for moving an alias starts at: the newest version that is not in production."""
    others = [row.number for row in rows if production is None or row.pk != production.pk]
    return {"version": others[0] if others else None, "name": PRODUCTION if others else "staging"}


@policy("viewer")
@require_GET
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    prompt = selectors.prompt_of(team=request.team, pk=pk)
    return _page(request, prompt, selectors.default_version(prompt))


@policy("viewer")
@require_GET
def version(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    prompt = selectors.prompt_of(team=request.team, pk=pk)
    return _page(request, prompt, selectors.version_of(prompt=prompt, number=number))


@policy("member")
@require_POST
def move_alias(request: HttpRequest, pk: int) -> HttpResponse:
    prompt = selectors.prompt_of(team=request.team, pk=pk)
    form = AliasForm(request.POST, versions=list(prompt.versions.all()))
    if form.is_valid():
        wanted = selectors.version_of(prompt=prompt, number=form.cleaned_data["version"])
        name, reason = form.cleaned_data["name"], form.cleaned_data["reason"]
        try:
            alias = services.alias_move(version=wanted, name=name, user=request.user, reason=reason)
        except ColdframeError as error:
            form.add_error(error.field if error.field in form.fields else None, f"{error.message} {error.hint}".strip())
        else:
            messages.success(request, f"{alias} is version {wanted.number} now.")
            return redirect("prompts:detail", pk=pk)
    return _page(request, prompt, selectors.default_version(prompt), alias_form=form, error=True)


@policy("viewer")
@require_GET
def verdict(request: HttpRequest, pk: int) -> HttpResponse:
    """What moving the alias typed in the form to the version chosen there would meet; asked for by htmx."""
    prompt = selectors.prompt_of(team=request.team, pk=pk)
    number, name = request.GET.get("version", ""), request.GET.get("name", "").strip()
    is_number = number.isascii() and number.isdigit() and len(number) < 9
    wanted = prompt.versions.filter(number=int(number)).first() if is_number else None
    alias = prompt.aliases.select_related("version").filter(name=name.replace("\x00", "")).first()
    context: dict[str, Any] = {"wanted": wanted, "name": name, "alias": alias}
    if wanted is not None:
        context["verdict"] = alias_verdict(version=wanted, incumbent=alias.version if alias else None)
        context["is_gated"] = name == PRODUCTION
        context["test"] = measure(wanted.metrics)
    return render(request, "adapters/_verdict.html", context)


urlpatterns = [
    path("", index, name="index"),
    path("new", new, name="new"),
    path("preview", prompt_try.preview, name="preview"),
    path("draw", prompt_try.draw, name="draw"),
    path("try", prompt_try.start, name="try"),
    path("try/<str:ticket>/events", prompt_try.events, name="try_events"),
    path("<int:pk>/", detail, name="detail"),
    path("<int:pk>/new", new_version, name="new_version"),
    path("<int:pk>/alias", move_alias, name="alias"),
    path("<int:pk>/verdict", verdict, name="verdict"),
    path("<int:pk>/<int:number>/", version, name="version"),
]
