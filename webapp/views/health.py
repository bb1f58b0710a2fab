"""`/healthz`: is everything ready? For `make up`, load balancers and people; needs no account."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from webapp.policy import policy
from webapp.selectors.health import health


@policy("public")
@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """200 when every part is ready, else 503; the body says which is not."""
    answer = health()
    response = JsonResponse(answer, status=200 if answer["ready"] else 503)
    # Django logs every 5xx as an error; this one is an answer, and asked for every second while parts start.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response
