"""Who may use a route. Every view declares a policy; one function decides for sessions and tokens alike.

`@policy("member")` only marks the view. `DefaultClosedMiddleware` refuses unmarked views, asks `principal_of` who is
asking, compares roles, and sets `request.principal`, `request.team` and `request.membership`. Views never decide.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone

from webapp.models import ROLE_RANK, ApiToken, Membership, Role, Team

Level = Literal["public", "signed_in", "viewer", "member", "admin", "operator"]
"""`operator` is above all roles: who runs the installation, by METRICS_TOKEN; no member of a team is one."""
READS = ("GET", "HEAD", "OPTIONS")
View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class Policy:
    """`level` is the least role; `takes_token` is True where a bearer token may be used instead of a session.
    `writes` is the least role for what changes something, on a route that is read by others too."""

    level: Level
    takes_token: bool = False
    is_api: bool = False
    writes: Level | None = None

    def needed(self, method: str | None) -> Level:
        return self.writes if self.writes and method not in READS else self.level


@dataclass(frozen=True)
class Principal:
    """Who is asking, for which team, as what."""

    user: Any
    team: Team
    role: str
    membership: Membership | None = None
    token: ApiToken | None = None

    def may(self, level: str) -> bool:
        return level != "operator" and ROLE_RANK[Role(self.role)] >= ROLE_RANK[Role(level)]


def policy(
    level: Level, *, takes_token: bool = False, is_api: bool = False, writes: Level | None = None
) -> Callable[[View], View]:
    """Declares who may call a view."""

    def mark(view: View) -> View:
        view.policy = Policy(level, takes_token, is_api, writes)  # type: ignore[attr-defined]
        return view

    return mark


def digest_of(token: str) -> str:
    """What is kept of a token: its sha256. Tokens carry 256 random bits, so no salt is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def principal_of_token(token: str) -> Principal | None:
    """The token's owner, or None for unknown and revoked tokens and suspended members."""
    found = (
        ApiToken.objects.select_related("team", "created_by")
        .filter(digest=digest_of(token), revoked_at__isnull=True)
        .first()
    )
    if found is None:
        return None
    membership = Membership.objects.filter(team=found.team, user=found.created_by, user__is_active=True).first()
    if membership is None or membership.is_suspended:
        return None
    role = min(found.role, membership.role, key=lambda r: ROLE_RANK[Role(r)])
    now = timezone.now()
    if found.last_used_at is None or (now - found.last_used_at).total_seconds() > 60:
        ApiToken.objects.filter(pk=found.pk).update(last_used_at=now)
    return Principal(found.created_by, found.team, role, membership, found)


def principal_of_session(request: HttpRequest) -> Principal | None:
    """The signed-in user in the team chosen in the session, else in their first team."""
    user = request.user
    if not user.is_authenticated:
        return None
    memberships = Membership.objects.select_related("team").filter(user=user, is_suspended=False).order_by("pk")
    chosen = request.session.get("team")
    membership = (memberships.filter(team_id=chosen).first() if chosen else None) or memberships.first()
    if membership is None:
        return None
    return Principal(user, membership.team, membership.role, membership)


def is_operator(request: HttpRequest) -> bool:
    """Whether the bearer token is METRICS_TOKEN."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not settings.METRICS_TOKEN:
        return False
    return hmac.compare_digest(digest_of(token.strip()), digest_of(settings.METRICS_TOKEN))


def principal_of(request: HttpRequest, *, takes_token: bool) -> Principal | None:
    """The one place that decides who is asking. A bearer header, where allowed, wins over the session."""
    header = request.headers.get("Authorization", "")
    if header:
        scheme, _, token = header.partition(" ")
        if takes_token and scheme.lower() == "bearer" and token.strip():
            return principal_of_token(token.strip())
        return None
    if takes_token:
        return None
    return principal_of_session(request)
