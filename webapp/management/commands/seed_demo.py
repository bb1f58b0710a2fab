"""Makes the demo team once: a dataset, a collection, prompts, and the demo login. Safe to run at every start."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from webapp.services.demo import DEMO_PASSWORD, DEMO_USER, demo_seed


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        for line in demo_seed():
            self.stdout.write(line)
        self.stdout.write(f"Demo login: {DEMO_USER} / {DEMO_PASSWORD}")
