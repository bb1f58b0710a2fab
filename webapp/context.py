"""What every page's shell shows: navigation with counts, the user's teams, running work, the frozen model."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest

from webapp.models import Adapter, Collection, Dataset, Membership, Prompt, Run

NAV = (
    ("home", "Home", "home", False),
    ("chat:index", "Chat", "chat", False),
    ("adapters:index", "Adapters", "adapters", True),
    ("prompts:index", "Prompts", "prompts", False),
    ("studies:index", "Studies", "studies", False),
    ("datasets:index", "Datasets", "datasets", True),
    ("collections:index", "Collections", "collections", False),
    ("runs:index", "Runs", "runs", False),
    ("models:index", "Models", "models", True),
    ("teams:index", "Team", "team", False),
)
COUNTED = {"adapters": Adapter, "prompts": Prompt, "datasets": Dataset, "collections": Collection}


def shell(request: HttpRequest) -> dict[str, Any]:
    """Lazy: pages that are not in the shell (sign-in, errors for strangers) cost no query."""
    team = getattr(request, "team", None)
    if team is None:
        return {"shell": None, "demo_login": settings.DEMO and settings.IS_LOOPBACK}
    here = request.resolver_match.view_name if request.resolver_match else ""
    noun = here.split(":")[0]
    counts = {name: model.objects.for_team(team).count() for name, model in COUNTED.items()}
    live = list(Run.objects.for_team(team).filter(state__in=Run.ACTIVE).order_by("-started_at")[:5])
    n_waiting = Run.objects.for_team(team).filter(state=Run.State.QUEUED).count()
    counts["runs"] = len(live) + n_waiting
    nav = [
        {"url": url, "label": label, "icon": icon, "has_gap": gap, "count": counts.get(icon),
         "is_here": url.split(":")[0] == noun}
        for url, label, icon, gap in NAV
    ]  # fmt: skip
    memberships = Membership.objects.select_related("team").filter(user=request.user, is_suspended=False)
    return {
        "shell": {
            "nav": nav,
            "memberships": memberships,
            "running": live,
            "n_waiting": n_waiting,
            "base_model": settings.BASE_MODEL,
        },
        "demo_login": False,
    }
