"""`manage.py up`: everything on this machine under one supervisor; `make up` calls it."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Start web, workers, engine, reconciler and the embedded services; Ctrl-C stops them."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        from jobs.up import main

        sys.exit(main())
