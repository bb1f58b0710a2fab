"""Members, roles, tokens and the audit trail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client

from ml.errors import ColdframeError, NotFoundError
from webapp.models import ApiToken, AuditEvent, Membership, Role, Team
from webapp.policy import digest_of, principal_of_token
from webapp.services.teams import member_add, member_change, token_create, token_revoke


def test_a_token_is_shown_once_and_kept_as_its_hash(
    team: Team, member: Any, client_of: Callable[[Any], Client]
) -> None:
    page = client_of(member).post("/team/tokens/new/", {"name": "notebook"}).content.decode()
    token = ApiToken.objects.get(name="notebook")
    text = page.split('id="tk" tabindex="0">')[1].split("<")[0]
    assert digest_of(text) == token.digest
    assert text not in client_of(member).get("/team/").content.decode()


def test_a_token_without_a_name_is_refused_with_the_reason(member: Any, client_of: Callable[[Any], Client]) -> None:
    response = client_of(member).post("/team/tokens/new/", {"name": "  "})
    assert response.status_code == 422
    assert "needs a name" in response.content.decode()


def test_a_revoked_token_opens_nothing(team: Team, member: Any) -> None:
    token, text = token_create(team=team, user=member, name="t", role=Role.MEMBER)
    assert principal_of_token(text) is not None
    token_revoke(team=team, user=member, pk=token.pk)
    assert principal_of_token(text) is None


def test_a_suspended_members_token_opens_nothing(team: Team, admin: Any, member: Any) -> None:
    _, text = token_create(team=team, user=member, name="t", role=Role.MEMBER)
    pk = Membership.objects.get(user=member).pk
    member_change(team=team, user=admin, pk=pk, is_suspended=True)
    assert principal_of_token(text) is None


def test_another_teams_token_cannot_be_revoked(team: Team, other_team: Team, member: Any, stranger: Any) -> None:
    token, _ = token_create(team=team, user=member, name="t", role=Role.MEMBER)
    with pytest.raises(NotFoundError):
        token_revoke(team=other_team, user=stranger, pk=token.pk)


def test_a_member_cannot_revoke_a_colleagues_token(
    team: Team, admin: Any, member: Any, client_of: Callable[[Any], Client]
) -> None:
    token, text = token_create(team=team, user=admin, name="t", role=Role.ADMIN)
    assert client_of(member).post(f"/team/tokens/{token.pk}/revoke/").status_code == 404
    assert principal_of_token(text) is not None


def test_the_only_admin_keeps_the_role(team: Team, admin: Any) -> None:
    pk = Membership.objects.get(user=admin).pk
    with pytest.raises(ColdframeError, match="only admin"):
        member_change(team=team, user=admin, pk=pk, role=Role.VIEWER)
    with pytest.raises(ColdframeError, match="only admin"):
        member_change(team=team, user=admin, pk=pk, is_suspended=True)


def test_a_new_person_gets_an_account_that_can_sign_in(team: Team, admin: Any) -> None:
    membership, password = member_add(team=team, user=admin, username="nora", role=Role.VIEWER)
    assert membership.role == Role.VIEWER
    assert Client().login(username="nora", password=password)


def test_nobody_joins_twice(team: Team, admin: Any, member: Any) -> None:
    with pytest.raises(ColdframeError, match="already"):
        member_add(team=team, user=admin, username=member.username, role=Role.MEMBER)


@pytest.mark.parametrize("name", ["", "two words", "a" * 200, "<script>"])
def test_a_bad_user_name_is_refused(team: Team, admin: Any, name: str) -> None:
    with pytest.raises(ColdframeError, match="user name"):
        member_add(team=team, user=admin, username=name, role=Role.MEMBER)
    assert not get_user_model().objects.filter(username=name).exists()


def test_every_change_is_in_the_audit_trail(team: Team, admin: Any, member: Any) -> None:
    token, _ = token_create(team=team, user=member, name="t", role=Role.MEMBER)
    token_revoke(team=team, user=admin, pk=token.pk)
    assert list(AuditEvent.objects.for_team(team).order_by("pk").values_list("action", "created_by__username")) == [
        ("token.create", "max"),
        ("token.revoke", "ada"),
    ]


def test_the_team_in_the_session_decides_what_is_seen(
    team: Team, other_team: Team, member: Any, client_of: Callable[[Any], Client]
) -> None:
    Membership.objects.create(team=other_team, user=member, role=Role.VIEWER)
    client = client_of(member)
    assert "Paralegals" in client.get("/team/").content.decode().split("<main")[1]
    client.post("/team/switch/", {"team": other_team.slug})
    assert "Support desk" in client.get("/team/").content.decode().split("<main")[1]


def test_a_team_one_is_not_in_cannot_be_switched_to(
    member: Any, other_team: Team, client_of: Callable[[Any], Client]
) -> None:
    assert client_of(member).post("/team/switch/", {"team": other_team.slug}).status_code == 404


def test_create_token_prints_a_token_that_works(team: Team, admin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("create_token", "--team", team.slug, "--name", "probe")
    principal = principal_of_token(capsys.readouterr().out.strip())
    assert principal is not None
    assert principal.team == team
