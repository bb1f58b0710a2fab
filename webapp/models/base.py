"""What every team-scoped row shares: the team, the time it was made, and the only way to query it in a view."""

from __future__ import annotations

from typing import Any, Self

from django.conf import settings
from django.db import models


class TeamQuerySet(models.QuerySet):
    """A query set that views narrow with `for_team(request.team)` before anything else."""

    def for_team(self, team: Any) -> Self:
        return self.filter(team=team)


class TeamScoped(models.Model):
    """Abstract base of rows that belong to one team."""

    team = models.ForeignKey("webapp.Team", on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )

    objects = TeamQuerySet.as_manager()

    class Meta:
        abstract = True
