"""The API page: how to call the team's own names with curl and the openai client."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from webapp.api.limits import EMBEDDING_NAME, MAX_INPUTS
from webapp.models import ApiToken, Collection
from webapp.policy import policy
from webapp.selectors.chat_page import label_of
from webapp.selectors.targets import BASE, choices, names_of_team
from webapp.services.asking import DEADLINE_S, MAX_STOP_LENGTH, MAX_STOPS

N_SHOWN = 8


@policy("viewer")
@require_GET
def page(request: HttpRequest) -> HttpResponse:
    found = choices(request.team)
    own = next((c for c in found if c.name.endswith("@production")), None) or next(iter(found[1:]), found[0])
    collection = Collection.objects.for_team(request.team).first()
    context = {
        "address": request.build_absolute_uri("/").rstrip("/"),
        "own": own.name,
        "names": [{"choice": c, "kind": label_of(c.method)} for c in found[:N_SHOWN]],
        "n_names": len(names_of_team(request.team)),
        "base": BASE,
        "base_model": settings.BASE_MODEL,
        "collection": collection.name if collection else "",
        "embedding": EMBEDDING_NAME,
        "max_inputs": MAX_INPUTS,
        "length": settings.ENGINE_LENGTH,
        "max_stops": MAX_STOPS,
        "max_stop_length": MAX_STOP_LENGTH,
        "minutes": DEADLINE_S // 60,
        "has_token": ApiToken.objects.for_team(request.team).filter(revoked_at__isnull=True).exists(),
    }
    return render(request, "chat/api.html", context)
