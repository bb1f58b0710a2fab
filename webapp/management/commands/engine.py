"""`manage.py engine`: one engine; as many as there are devices may run, on any machine."""

from __future__ import annotations

import sys
import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Serve the frozen model until SIGTERM. Waits for the base model while set-up is still fetching it."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        wait_for_model()
        from jobs.engine_main import main

        sys.exit(main())


def wait_for_model() -> None:
    """Before torch is imported: on a new machine the starter model takes a minute to be fetched and converted."""
    folder = settings.MODELS_DIR / settings.BASE_MODEL
    if (folder / "config.json").is_file():
        return
    sys.stderr.write(f"waiting for the base model in {folder} (make models fetches the starter models)\n")
    sys.stderr.flush()
    while not (folder / "config.json").is_file():
        time.sleep(0.5)
