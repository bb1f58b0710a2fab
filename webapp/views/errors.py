"""Pages for requests that no view takes: not found, forbidden, broken, forged."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse

from ml.errors import ColdframeError, NotFoundError
from webapp.errors import API_PATH, error_response


def _is_api(request: HttpRequest) -> bool:
    return request.path.startswith(API_PATH)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    error = NotFoundError("There is nothing here.", hint="It may have been removed, or belongs to another team.")
    return error_response(request, error, is_api=_is_api(request))


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    error = ColdframeError("The request could not be understood.", code="bad_request")
    return error_response(request, error, is_api=_is_api(request))


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    error = ColdframeError("This is not allowed for you.", code="forbidden", status=403)
    return error_response(request, error, is_api=_is_api(request))


def server_error(request: HttpRequest) -> HttpResponse:
    error = ColdframeError(
        "Something broke on our side.", code="internal", status=500,
        hint="Nothing you typed was saved by this request. The server's log has the details.",
    )  # fmt: skip
    return error_response(request, error, is_api=_is_api(request))


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    error = ColdframeError(
        "This form is too old or came from elsewhere.", code="csrf", status=403, hint="Reload the page and try again."
    )
    return error_response(request, error)
