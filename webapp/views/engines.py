"""The page of the engines: what each does now, keeps in memory and did in the last minutes. It refreshes itself. Admins
drain an engine there and let it serve again."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

from webapp.policy import policy
from webapp.selectors import engines as selectors
from webapp.services import engines as services


def _context(request: HttpRequest) -> dict[str, Any]:
    return {**selectors.overview(team=request.team), "may_drain": request.principal.may("admin")}


@policy("viewer")
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    return render(request, "engines/index.html", _context(request))


@policy("viewer")
@require_GET
def live(request: HttpRequest) -> HttpResponse:
    """The part that changes; asked for every two seconds."""
    return render(request, "engines/_live.html", _context(request))


def _named(request: HttpRequest) -> dict[str, Any]:
    """Whose engines are meant, by whom."""
    return {"team": request.team, "user": request.user, "base": request.POST.get("base", ""),
            "host": request.POST.get("host", "")}  # fmt: skip


@policy("admin")
@require_POST
def drain(request: HttpRequest) -> HttpResponse:
    services.engine_drain(**(named := _named(request)))
    messages.success(request, f"The engine of {named['base']} finishes its answers and then gives its memory back.")
    return redirect("engines:index")


@policy("admin")
@require_POST
def serve(request: HttpRequest) -> HttpResponse:
    services.engine_serve(**(named := _named(request)))
    messages.success(request, f"The engine of {named['base']} loads its model and answers again.")
    return redirect("engines:index")


urlpatterns = [
    path("", index, name="index"),
    path("live", live, name="live"),
    path("drain", drain, name="drain"),
    path("serve", serve, name="serve"),
]
