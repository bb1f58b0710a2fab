"""The page of the frozen part: base models, the set-up of the starter models, the engines. The parts refresh alone."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.http import require_GET

from webapp.policy import policy
from webapp.selectors import models as selectors
from webapp.selectors.engines import engine_panes, engines
from webapp.services.models import models_sync


@policy("viewer")
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    models_sync()
    beats = engines()
    context = {
        "rows": selectors.base_models(team=request.team, beats=beats),
        "embedders": selectors.embedding_models(team=request.team),
        "panes": engine_panes(team=request.team, beats=beats),
        "setup": selectors.setup(),
    }
    return render(request, "models/index.html", context)


@policy("viewer")
@require_GET
def engine(request: HttpRequest) -> HttpResponse:
    """The engines in a line each; asked for every two seconds."""
    panes = engine_panes(team=request.team, beats=engines())
    return render(request, "models/_engines.html", {"panes": panes})


@policy("viewer")
@require_GET
def setup(request: HttpRequest) -> HttpResponse:
    """How far the starter models are. When they are there, htmx is told to load the page anew."""
    progress = selectors.setup()
    response = render(request, "models/_setup.html", {"setup": progress})
    if progress is None:
        response.headers["HX-Refresh"] = "true"
    return response


urlpatterns = [
    path("", index, name="index"),
    path("engine", engine, name="engine"),
    path("setup", setup, name="setup"),
]
