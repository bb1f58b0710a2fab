"""`manage.py create_token --team demo --name probe`: makes an API token and prints it, and nothing else, once."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ml.errors import ColdframeError
from webapp.models import Membership, Role, Team
from webapp.services.teams import token_create


class Command(BaseCommand):
    help = "Make an API token for a team; the token is printed once and cannot be shown again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--team", required=True, help="the team's short name, e.g. demo")
        parser.add_argument("--name", required=True, help="what the token is for")
        parser.add_argument("--user", default="", help="whose token; the team's first admin unless told")
        parser.add_argument("--role", default=Role.MEMBER, choices=Role.values, help="the most that it may do")

    def handle(self, *args: Any, **options: Any) -> None:
        team = Team.objects.filter(slug=options["team"]).first()
        if team is None:
            known = ", ".join(Team.objects.values_list("slug", flat=True)) or "none yet (run manage.py prepare)"
            raise CommandError(f"There is no team {options['team']!r}. Teams: {known}.")
        members = Membership.objects.filter(team=team, is_suspended=False).select_related("user").order_by("pk")
        wanted = {"user__username": options["user"]} if options["user"] else {"role": Role.ADMIN}
        membership = members.filter(**wanted).first()
        if membership is None:
            raise CommandError(f"{team} has no active {'member ' + options['user'] if options['user'] else 'admin'}.")
        try:
            _, token = token_create(team=team, user=membership.user, name=options["name"], role=options["role"])
        except ColdframeError as error:
            raise CommandError(f"{error.message} {error.hint}".strip()) from error
        self.stdout.write(token)
