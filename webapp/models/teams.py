"""Teams, who is in them and as what, API tokens, and the audit trail."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models

from webapp.models.base import TeamScoped


class Role(models.TextChoices):
    VIEWER = "viewer", "Viewer"
    MEMBER = "member", "Member"
    ADMIN = "admin", "Admin"


ROLE_RANK = {Role.VIEWER: 1, Role.MEMBER: 2, Role.ADMIN: 3}


class Team(models.Model):
    slug = models.SlugField(unique=True, max_length=60)
    name = models.CharField(max_length=80)
    prices = models.JSONField(default=dict, blank=True)
    """What a million tokens cost this team: {"currency": "EUR", "tokens_in": 0.1, "tokens_out": 0.4}; {} is unset."""
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name


class Installation(models.Model):
    """One row: tells this database's things apart from those of other installations in a shared service."""

    key = models.UUIDField(default=uuid.uuid4, editable=False)

    def __str__(self) -> str:
        return self.key.hex

    @classmethod
    def current_key(cls) -> str:
        """Twelve hexadecimal digits, made on first use; they move with the database."""
        return cls.objects.get_or_create(pk=1)[0].key.hex[:12]


class Membership(models.Model):
    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.MEMBER)
    is_suspended = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "user"], name="one_membership_per_team")]

    def __str__(self) -> str:
        return f"{self.user} in {self.team} as {self.role}"

    def may(self, role: str) -> bool:
        """True when this membership is active and at least `role`."""
        return not self.is_suspended and ROLE_RANK[Role(self.role)] >= ROLE_RANK[Role(role)]


class ApiToken(TeamScoped):
    """A bearer token: only its sha256 is kept; the token itself is shown once."""

    name = models.CharField(max_length=80)
    digest = models.CharField(max_length=64, unique=True)
    prefix = models.CharField(max_length=12)
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.MEMBER)
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


class AuditEvent(TeamScoped):
    """Who did what to which object. Never edited."""

    action = models.CharField(max_length=60)
    subject = models.CharField(max_length=200)
    detail = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.action} {self.subject}"
