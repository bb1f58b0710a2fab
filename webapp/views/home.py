"""Home with its first-run list, the shell's live parts, and the search over everything."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from webapp.policy import policy
from webapp.selectors import home as selectors


@policy("viewer")
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    context = selectors.overview(team=request.team, user=request.user)
    context["has_steps"] = not request.session.get("steps_hidden")
    return render(request, "home/index.html", context)


@policy("viewer")
@require_POST
def hide_steps(request: HttpRequest) -> HttpResponse:
    request.session["steps_hidden"] = True
    messages.info(request, "The first steps are hidden for this session.")
    return redirect("home")


@policy("viewer")
@require_GET
def running(request: HttpRequest) -> HttpResponse:
    """The running-work indicator of the top bar; refreshed by htmx."""
    return render(request, "_parts/running.html")


@policy("viewer")
@require_GET
def bed(request: HttpRequest) -> HttpResponse:
    """The frozen model at the foot of the navigation; refreshed by htmx."""
    return render(request, "_parts/bed.html", {"bed": selectors.bed()})


@policy("viewer")
@require_GET
def load(request: HttpRequest) -> HttpResponse:
    """Engines and machine on Home; refreshed by htmx."""
    return render(request, "home/_load.html", selectors.load())


@policy("viewer")
@require_GET
def search(request: HttpRequest) -> HttpResponse:
    query = request.GET.get("q", "").strip()[:200]
    groups = selectors.search(team=request.team, user=request.user, query=query) if query else []
    return render(request, "home/search.html", {"search_query": query, "groups": groups})
