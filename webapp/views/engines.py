"""The page of the engines: what each does now, keeps in memory and did in the last minutes. It refreshes itself."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.http import require_GET

from webapp.policy import policy
from webapp.selectors import engines as selectors


@policy("viewer")
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    return render(request, "engines/index.html", selectors.overview(team=request.team))


@policy("viewer")
@require_GET
def live(request: HttpRequest) -> HttpResponse:
    """The part that changes; asked for every two seconds."""
    return render(request, "engines/_live.html", selectors.overview(team=request.team))


urlpatterns = [path("", index, name="index"), path("live", live, name="live")]
