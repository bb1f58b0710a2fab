"""`manage.py reconcile`: the process that re-sends lost work, expires leases and collects garbage."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Run the reconciler until SIGTERM."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        from jobs.reconcile import main

        sys.exit(main())
