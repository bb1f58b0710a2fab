"""Teams and people for the web tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from tests.webapp.fixtures_theirs import one_of_everything
from tests.webapp.responder import Responder
from webapp.models import Membership, Role, Team
from webapp.services.teams import token_create


def _person(name: str, team: Team, role: str, *, is_suspended: bool = False) -> Any:
    user = get_user_model().objects.create_user(name)
    Membership.objects.create(team=team, user=user, role=role, is_suspended=is_suspended)
    return user


@pytest.fixture
def team(db: None) -> Team:
    return Team.objects.create(slug="paralegals", name="Paralegals")


@pytest.fixture
def other_team(db: None) -> Team:
    return Team.objects.create(slug="support", name="Support desk")


@pytest.fixture
def admin(team: Team) -> Any:
    return _person("ada", team, Role.ADMIN)


@pytest.fixture
def member(team: Team) -> Any:
    return _person("max", team, Role.MEMBER)


@pytest.fixture
def viewer(team: Team) -> Any:
    return _person("vera", team, Role.VIEWER)


@pytest.fixture
def suspended(team: Team) -> Any:
    return _person("sam", team, Role.ADMIN, is_suspended=True)


@pytest.fixture
def stranger(other_team: Team) -> Any:
    """An admin, of another team."""
    return _person("olga", other_team, Role.ADMIN)


@pytest.fixture
def client_of() -> Callable[[Any], Client]:
    """A client signed in as the given user."""

    def sign_in(user: Any) -> Client:
        client = Client()
        client.force_login(user)
        return client

    return sign_in


@pytest.fixture
def theirs(team: Team, admin: Any) -> None:
    """One object of every kind in `team`, with the ids of tests.webapp.fixtures_theirs."""
    one_of_everything(team, admin)


@pytest.fixture
def redis_url_unreachable(settings: Any) -> None:
    """No Redis: what needs it must say so (503) instead of breaking."""
    settings.REDIS_URL = "redis://127.0.0.1:1/0"


@pytest.fixture
def token(team: Team, member: Any) -> str:
    """A member's, for the API."""
    return token_create(team=team, user=member, name="probe")[1]


@pytest.fixture
def engine(redis_url: str) -> Responder:
    """Alive, and playing its part by script: `tests.webapp.api_client.Answering` answers from a thread."""
    responder = Responder(keeps=False)
    responder.beat()
    return responder
