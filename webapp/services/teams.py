"""Writes on teams: memberships, tokens, the audit trail."""

from __future__ import annotations

import secrets
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from ml.errors import ColdframeError, NotFoundError
from webapp.models import ApiToken, AuditEvent, Membership, Role, Team
from webapp.policy import digest_of

TOKEN_START = "cf-"  # noqa: S105  (a mark in front of the random part)


def audit(*, team: Team, user: Any, action: str, subject: Any, **detail: Any) -> AuditEvent:
    """Writes who did what to which object."""
    return AuditEvent.objects.create(
        team=team, created_by=user, action=action, subject=str(subject)[:200], detail=detail
    )


@transaction.atomic
def token_create(*, team: Team, user: Any, name: str, role: str = Role.MEMBER) -> tuple[ApiToken, str]:
    """A new token and its text, which is shown once and never kept."""
    name = name.strip()
    if not name or len(name) > 80:
        raise ColdframeError(f"A token needs a name of 1 to 80 characters, got {len(name)}.", field="name")
    text = TOKEN_START + secrets.token_urlsafe(32)
    token = ApiToken.objects.create(
        team=team, created_by=user, name=name, role=role, digest=digest_of(text), prefix=text[:8]
    )
    audit(team=team, user=user, action="token.create", subject=name, role=role)
    return token, text


@transaction.atomic
def token_revoke(*, team: Team, user: Any, pk: int) -> None:
    """Ends a token at once; open streams of it are cut at their next check."""
    token = ApiToken.objects.for_team(team).filter(pk=pk, revoked_at__isnull=True).first()
    if token is None:
        raise NotFoundError("No such token in this team.")
    ApiToken.objects.filter(pk=token.pk).update(revoked_at=timezone.now())
    audit(team=team, user=user, action="token.revoke", subject=token.name)


def _only_admin(membership: Membership) -> bool:
    others = Membership.objects.filter(team=membership.team, role=Role.ADMIN, is_suspended=False)
    return membership.role == Role.ADMIN and not others.exclude(pk=membership.pk).exists()


@transaction.atomic
def member_change(*, team: Team, user: Any, pk: int, role: str = "", is_suspended: bool | None = None) -> Membership:
    """Changes a member's role or suspends them. A team keeps at least one active admin."""
    membership = Membership.objects.select_related("user", "team").filter(team=team, pk=pk).first()
    if membership is None:
        raise NotFoundError("No such member in this team.")
    if role and role not in Role.values:
        raise ColdframeError(f"A role is one of {', '.join(Role.values)}, got {role!r}.", field="role")
    loses_admin = (role and role != Role.ADMIN) or is_suspended
    if loses_admin and _only_admin(membership):
        raise ColdframeError(
            f"{membership.user} is the only admin of {team}.", hint="Make someone else an admin first.", status=409
        )
    if role:
        membership.role = role
    if is_suspended is not None:
        membership.is_suspended = is_suspended
    membership.save(update_fields=["role", "is_suspended"])
    audit(team=team, user=user, action="member.change", subject=membership.user,
          role=membership.role, suspended=membership.is_suspended)  # fmt: skip
    return membership


@transaction.atomic
def member_add(*, team: Team, user: Any, username: str, role: str) -> tuple[Membership, str]:
    """Adds a person by user name; a new account gets a one-time password, returned once ("" for known accounts)."""
    username = username.strip()
    if role not in Role.values:
        raise ColdframeError(f"A role is one of {', '.join(Role.values)}, got {role!r}.", field="role")
    users = get_user_model()
    try:
        users._meta.get_field(users.USERNAME_FIELD).clean(username, None)
    except ValidationError:
        raise ColdframeError(
            f"{username[:60]!r} is no user name.",
            hint="At most 150 characters: letters, digits and @ . + - _ only.",
            field="username",
        ) from None
    person = users.objects.filter(username=username).first()
    password = ""
    if person is None:
        password = secrets.token_urlsafe(12)
        person = users.objects.create_user(username, password=password)
    if Membership.objects.filter(team=team, user=person).exists():
        raise ColdframeError(f"{username} is in {team} already.", field="username", status=409)
    membership = Membership.objects.create(team=team, user=person, role=role)
    audit(team=team, user=user, action="member.add", subject=username, role=role)
    return membership, password
