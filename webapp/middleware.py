"""Default-closed routes, the content security policy, and errors as pages, fragments or JSON; the API's always JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse

from ml.errors import ColdframeError
from webapp.errors import API_PATH, error_response, request_id_of
from webapp.policy import Policy, is_operator, principal_of

CSP = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)


class ContentSecurityPolicyMiddleware:
    """No inline script or style, nothing from elsewhere, on every response."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", CSP)
        return response


class ApiShapeMiddleware:
    """Every response under /v1/ names its request, and every refusal there has OpenAI's shape, whoever made it: an
    unknown path, a wrong verb, a body that Django refuses."""

    SAID = {
        405: ("This address does not take {method}.", "The OpenAPI file says what it takes.", "method_not_allowed"),
        413: ("The body is too large.", "Send less at once.", "body_too_large"),
    }

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if not request.path.startswith(API_PATH):
            return response
        if response.status_code >= 400 and not response.headers.get("Content-Type", "").startswith("application/json"):
            response = self._shaped(request, response)
        response.headers.setdefault("X-Request-ID", request_id_of(request))
        return response

    def _shaped(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        unknown = ("The request was refused.", "", "refused")
        message, hint, code = self.SAID.get(response.status_code, unknown)
        message = message.format(method=request.method)
        error = ColdframeError(message, hint=hint, code=code, status=response.status_code)
        shaped = error_response(request, error, is_api=True)
        if "Allow" in response.headers:
            shaped.headers["Allow"] = response.headers["Allow"]
        return shaped


OPERATORS = "Send the operator's METRICS_TOKEN as `Authorization: Bearer …`; no token of a team opens this."


class DefaultClosedMiddleware:
    """Refuses every view without a declared policy; sets principal, team and membership for the rest."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> HttpResponse | None:
        declared: Policy | None = getattr(view, "policy", None)
        if declared is None:
            raise ImproperlyConfigured(f"{view} declares no policy; decorate it with @policy(…).")
        request.principal = request.team = request.membership = None
        if declared.level == "public" or (declared.level == "operator" and is_operator(request)):
            return None
        principal = principal_of(request, takes_token=declared.takes_token)
        if principal is None:
            return self._refuse_stranger(request, declared)
        request.principal, request.team, request.membership = principal, principal.team, principal.membership
        if principal.token is not None:
            request.user = principal.user
        needed = declared.needed(request.method)
        if needed != "signed_in" and not principal.may(needed):
            error = ColdframeError(
                f"Your role in {principal.team} is {principal.role}; this needs {needed}.",
                hint=OPERATORS if needed == "operator" else "Ask an admin of the team for more rights.",
                code="forbidden", status=403,
            )  # fmt: skip
            return error_response(request, error, is_api=declared.is_api)
        return None

    def _refuse_stranger(self, request: HttpRequest, declared: Policy) -> HttpResponse:
        if declared.is_api:
            error = ColdframeError(
                "This needs a valid API token.",
                hint=OPERATORS if declared.level == "operator" else "Send it as `Authorization: Bearer …`.",
                code="invalid_api_key", status=401,
            )  # fmt: skip
            return error_response(request, error, is_api=True)
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        error = ColdframeError(
            "Your account is in no active team.", hint="Ask an admin to add you.", code="forbidden", status=403
        )
        return error_response(request, error)


class FriendlyErrorsMiddleware:
    """A ColdframeError raised anywhere in a view becomes a page, a fragment or JSON that says what to do."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not isinstance(exception, ColdframeError):
            return None
        match = request.resolver_match
        declared: Policy | None = getattr(match.func, "policy", None) if match else None
        return error_response(request, exception, is_api=bool(declared and declared.is_api))
