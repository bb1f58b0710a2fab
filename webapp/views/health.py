"""Readiness."""

from django.http import HttpRequest, JsonResponse

from webapp.policy import policy


@policy("public")
def healthz(request: HttpRequest) -> JsonResponse:
    return JsonResponse({})
