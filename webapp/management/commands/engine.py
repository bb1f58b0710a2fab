"""`manage.py engine`: one engine of one base model; any number may run, on any machine."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser


class Command(BaseCommand):
    help = (
        "Serve a frozen model. Waits for the base model while set-up is still fetching it. SIGTERM: finish the answers "
        "under way, then end. SIGINT, or SIGTERM again: end at once; another engine goes on with what is unfinished."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--base", default="", help="one of BASE_MODELS; the first by default")

    def handle(self, *args: Any, **options: Any) -> None:
        from jobs.engine_main import main
        from ml.errors import ModelError

        try:
            sys.exit(main(options["base"]))
        except ModelError as error:
            raise CommandError(f"{error.message} {error.hint}") from error
