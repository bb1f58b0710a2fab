"""What every page's shell shows: navigation with counts, the user's teams, running work, the frozen model."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.http import HttpRequest

from webapp.models import Adapter, Collection, Dataset, Membership, Prompt, Run, Study

DEMO_USER = "demo"
DEMO_PASSWORD = "cold-frame-demo"  # noqa: S105  (public on purpose: shown on the sign-in page of a local start)
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
UNDER = {"evaluations": "studies", "engines": "models"}
"""Nouns without a place of their own in the navigation, and where they are found."""
COUNTED = {"adapters": Adapter, "prompts": Prompt, "datasets": Dataset, "collections": Collection}


def has_demo_login() -> bool:
    """True while the app is bound to this machine and the demo user still has the published password."""
    if not (settings.DEMO and settings.IS_LOOPBACK):
        return False
    user = get_user_model().objects.filter(username=DEMO_USER).first()
    if user is None:
        return False
    return bool(cache.get_or_set(f"demo-login-{user.password}", lambda: user.check_password(DEMO_PASSWORD), 3600))


def shell(request: HttpRequest) -> dict[str, Any]:
    """Lazy: pages that are not in the shell (sign-in, errors for strangers) cost no query."""
    team = getattr(request, "team", None)
    here = request.resolver_match.view_name if request.resolver_match else ""
    if team is None:
        return {"shell": None, "demo_login": here == "account_login" and has_demo_login()}
    noun = UNDER.get(here.split(":")[0], here.split(":")[0])
    counts = {name: model.objects.for_team(team).count() for name, model in COUNTED.items()}
    live = list(Run.objects.for_team(team).filter(state__in=Run.ACTIVE).order_by("-started_at")[:5])
    n_waiting = Run.objects.for_team(team).filter(state=Run.State.QUEUED).count()
    counts["studies"] = Study.objects.for_team(team).filter(is_archived=False).count()
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
    }
