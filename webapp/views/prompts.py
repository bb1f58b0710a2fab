"""Pages of the prompt library: list, editor with a preview, a prompt's versions and their differences."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from ml.errors import SpecError
from webapp.forms.prompts import PromptForm
from webapp.listing import listing
from webapp.models import Prompt, PromptVersion
from webapp.policy import policy
from webapp.selectors import prompts as selectors
from webapp.selectors.diffs import side_by_side
from webapp.services import prompts as services

SORTABLE = {"name": "name", "technique": "technique", "changed": "changed"}
SAMPLE = "My lights went out. What should I do?"


@policy("viewer")
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    found = listing(
        request, selectors.prompt_list(team=request.team), search=("name", "description", "template"),
        sortable=SORTABLE, default="-changed", exact={"technique": "technique"},
    )  # fmt: skip
    context = {"listing": found, "techniques": selectors.TECHNIQUES, "glyphs": selectors.GLYPHS}
    return render(request, "prompts/index.html", context)


def _editor(request: HttpRequest, form: PromptForm, prompt: Prompt | None) -> HttpResponse:
    context = {
        "form": form, "prompt": prompt, "techniques": selectors.TECHNIQUES, "sample": SAMPLE,
        "chosen": form["technique"].value(), "step_by_step": selectors.STEP_BY_STEP,
    }  # fmt: skip
    return render(request, "prompts/edit.html", context, status=422 if form.is_bound else 200)


def _saved(request: HttpRequest, version: PromptVersion) -> HttpResponse:
    messages.success(request, f"prompt:{version} is saved. A version never changes.")
    return redirect("prompts:detail", pk=version.prompt_id)


@policy("member")
@require_http_methods(["GET", "HEAD", "POST"])
def new(request: HttpRequest) -> HttpResponse:
    form = PromptForm(request.POST) if request.method == "POST" else PromptForm()
    if form.is_bound and form.is_valid():
        try:
            version = services.prompt_create(team=request.team, user=request.user, **form.cleaned_data)
        except SpecError as error:
            form.refuse(error)
        else:
            return _saved(request, version)
    return _editor(request, form, None)


@policy("member")
@require_http_methods(["GET", "HEAD", "POST"])
def new_version(request: HttpRequest, pk: int) -> HttpResponse:
    prompt = selectors.prompt_of(team=request.team, pk=pk)
    if request.method != "POST":
        return _editor(request, PromptForm.of(selectors.version_of(prompt=prompt)), prompt)
    form = PromptForm(request.POST, is_new=False)
    if form.is_valid():
        return _saved(request, services.version_create(prompt=prompt, user=request.user, **form.cleaned_data))
    return _editor(request, form, prompt)


@policy("member")
@require_POST
def preview(request: HttpRequest) -> HttpResponse:
    """What the typed content would send for the typed question; asked for by htmx while typing. Writes nothing."""
    question = request.POST.get("sample", "").strip()[:2000] or SAMPLE
    form = PromptForm(request.POST, is_new=False)
    context: dict[str, Any] = {"form": form}
    if form.is_valid():
        version = PromptVersion(**{key: form.cleaned_data[key] for key in PREVIEWED})
        context["sent"] = selectors.messages_for(version, question)
    return render(request, "prompts/_sent.html", context)


PREVIEWED = ("technique", "system", "template", "examples")


def _page(request: HttpRequest, prompt: Prompt, version: PromptVersion) -> HttpResponse:
    rows = list(prompt.versions.select_related("created_by"))
    place = next(i for i, row in enumerate(rows) if row.pk == version.pk)
    right = selectors.picked(rows, request.GET.get("right"), place)
    left = selectors.picked(rows, request.GET.get("left"), place + 1)
    context = {
        "prompt": prompt, "version": version, "rows": rows, "left": left, "right": right,
        "technique": selectors.technique_named(version.technique), "glyphs": selectors.GLYPHS,
        "diff": side_by_side(selectors.as_text(left), selectors.as_text(right)) if len(rows) > 1 else None,
        "sent": selectors.messages_for(version, SAMPLE), "sample": SAMPLE,
        "target": f"prompt:{prompt.name}@{version.number}", "api_url": request.build_absolute_uri("/v1"),
        "may_write": request.principal.may("member"),
    }  # fmt: skip
    return render(request, "prompts/detail.html", context)


@policy("viewer")
@require_GET
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    prompt = selectors.prompt_of(team=request.team, pk=pk)
    return _page(request, prompt, selectors.version_of(prompt=prompt))


@policy("viewer")
@require_GET
def version(request: HttpRequest, pk: int, number: int) -> HttpResponse:
    prompt = selectors.prompt_of(team=request.team, pk=pk)
    return _page(request, prompt, selectors.version_of(prompt=prompt, number=number))


urlpatterns = [
    path("", index, name="index"),
    path("new", new, name="new"),
    path("preview", preview, name="preview"),
    path("<int:pk>/", detail, name="detail"),
    path("<int:pk>/new", new_version, name="new_version"),
    path("<int:pk>/<int:number>/", version, name="version"),
]
