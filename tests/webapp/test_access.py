"""The access matrix, generated from the URL configuration: every route x every kind of asker.

A route without a declared policy fails; so does one that lets in somebody below its level. Objects of another team are
answered with 404: each route with an object in its path is asked with a real object of another team.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from tests.webapp.fixtures_theirs import ID, UUID
from webapp.models import Role
from webapp.policy import Policy
from webapp.services.teams import token_create

LEVELS = ("public", "signed_in", "viewer", "member", "admin", "operator")


def _routes(patterns: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for pattern in patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _routes(pattern.url_patterns, route)
        elif isinstance(pattern, URLPattern):
            yield route, pattern.callback


ROUTES = sorted(_routes(get_resolver().url_patterns), key=lambda pair: pair[0])


def _path(route: str, number: str = "999999", unique: str = "00000000-0000-4000-8000-000000000000") -> str:
    """The route with values for what it captures; by default such that no row has them."""

    def value(match: re.Match[str]) -> str:
        return {"int": number, "uuid": unique, "slug": "nobody", "path": "x"}.get(match.group(1) or "str", "nobody")

    return "/" + re.sub(r"<(?:(\w+):)?\w+>", value, route)


def _allowed_below(declared: Policy, role: str, method: str) -> bool:
    return LEVELS.index(declared.needed(method.upper())) <= LEVELS.index(role)


@pytest.mark.parametrize(("route", "view"), ROUTES, ids=[route or "/" for route, _ in ROUTES])
def test_every_route_declares_a_policy(route: str, view: Any) -> None:
    declared = getattr(view, "policy", None)
    assert isinstance(declared, Policy), f"/{route} declares no policy"
    assert declared.level in LEVELS


def _ask(client: Client, method: str, path: str, **headers: str) -> Any:
    if method == "post" and path.startswith("/v1/"):
        return client.post(path, {}, content_type="application/json", headers=headers)
    return getattr(client, method)(path, headers=headers)


POLICIES = [(route, getattr(view, "policy", None)) for route, view in ROUTES]
CLOSED = [(route, declared) for route, declared in POLICIES if declared and declared.level != "public"]


@pytest.mark.parametrize(("route", "declared"), CLOSED, ids=[route or "/" for route, _ in CLOSED])
@pytest.mark.parametrize("method", ["get", "post", "put", "delete"])
def test_strangers_are_kept_out(route: str, declared: Policy, method: str, db: None) -> None:
    """Anonymous askers are sent to the sign-in page, or told 401 by the API; on every verb."""
    response = _ask(Client(), method, _path(route))
    if declared.is_api:
        assert response.status_code == 401
    else:
        assert response.status_code == 302
        assert response["Location"].startswith("/accounts/login/")


@pytest.mark.parametrize(("route", "declared"), CLOSED, ids=[route or "/" for route, _ in CLOSED])
@pytest.mark.parametrize("method", ["get", "post"])
def test_suspended_members_are_kept_out(
    route: str, declared: Policy, method: str, suspended: Any, client_of: Callable[[Any], Client]
) -> None:
    client = client_of(suspended)
    if declared.is_api:
        token = token_create(team=suspended.memberships.get().team, user=suspended, name="t", role=Role.ADMIN)[1]
        assert _ask(client, method, _path(route), Authorization=f"Bearer {token}").status_code == 401
    else:
        assert _ask(client, method, _path(route)).status_code == 403


@pytest.mark.parametrize(("route", "declared"), CLOSED, ids=[route or "/" for route, _ in CLOSED])
@pytest.mark.parametrize("role", ["viewer", "member", "admin"])
@pytest.mark.parametrize("method", ["get", "post", "delete"])
def test_a_role_opens_what_it_may_and_nothing_else(
    route: str, declared: Policy, role: str, method: str, request: pytest.FixtureRequest,
    client_of: Callable[[Any], Client], redis_url_unreachable: None,
) -> None:  # fmt: skip
    """Too low a role is 403 on every verb; enough of it is never 401 or 403."""
    user = request.getfixturevalue(role)
    client, headers = client_of(user), {}
    client.raise_request_exception = True
    if declared.is_api:
        token = token_create(team=user.memberships.get().team, user=user, name="t", role=role)[1]
        headers = {"Authorization": f"Bearer {token}"}
    status = _ask(client, method, _path(route), **headers).status_code
    if _allowed_below(declared, role, method):
        assert status not in (401, 403)
        assert status < 500 or status == 503
    else:
        assert status == 403


WITH_OBJECT = [(route, declared) for route, declared in CLOSED if "<" in route]


@pytest.mark.parametrize(("route", "declared"), WITH_OBJECT, ids=[route for route, _ in WITH_OBJECT])
@pytest.mark.parametrize("method", ["get", "post"])
def test_objects_of_another_team_do_not_exist(
    route: str, declared: Policy, method: str, stranger: Any, theirs: None, client_of: Callable[[Any], Client],
    redis_url: str,
) -> None:  # fmt: skip
    """Asked by an admin of another team with the id of a real object of ours: 404, or the wrong verb."""
    path = _path(route, number=str(ID), unique=str(UUID))
    client, headers = client_of(stranger), {}
    if declared.is_api:
        token = token_create(team=stranger.memberships.get().team, user=stranger, name="t", role=Role.ADMIN)[1]
        headers = {"Authorization": f"Bearer {token}"}
    assert _ask(client, method, path, **headers).status_code in (404, 405)


def test_a_token_never_does_more_than_its_maker(member: Any, team: Any) -> None:
    """A token made as admin falls to its maker's role; a token in a page's route is no credential at all."""
    from webapp.policy import principal_of_token

    text = token_create(team=team, user=member, name="greedy", role=Role.ADMIN)[1]
    principal = principal_of_token(text)
    assert principal is not None
    assert principal.role == Role.MEMBER
    response = Client().get("/", headers={"Authorization": f"Bearer {text}"})
    assert response.status_code == 302


def test_a_forged_form_is_refused(member: Any) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(member)
    assert client.post("/team/tokens/new/", {"name": "x"}).status_code == 403


def test_a_spoofed_host_is_refused(member: Any, client_of: Callable[[Any], Client]) -> None:
    assert client_of(member).get("/", headers={"Host": "evil.example"}).status_code == 400


def test_every_page_carries_the_content_security_policy(member: Any, client_of: Callable[[Any], Client]) -> None:
    csp = client_of(member).get("/team/").headers["Content-Security-Policy"]
    assert "default-src 'self'" in csp
    assert "unsafe" not in csp
