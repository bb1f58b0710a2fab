"""`manage.py engine`: one engine; as many as there are devices may run, on any machine."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Serve the frozen model until SIGTERM. Waits for the base model while set-up is still fetching it."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        from jobs.engine_main import main

        sys.exit(main())
