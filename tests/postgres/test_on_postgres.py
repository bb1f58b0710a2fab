"""The migrations and the state machine of runs on a real Postgres, where CI otherwise uses SQLite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.postgres.server import postgres

ROOT = Path(__file__).resolve().parents[2]
SAME_TESTS = ("tests/webapp/test_run_leases.py", "tests/webapp/test_runs.py", "tests/jobs/test_reconcile.py")


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("pg")
    with postgres() as url:
        yield {**os.environ, "DATABASE_URL": url, "COLDFRAME_VAR": str(folder / "var"), "PYTEST_ADDOPTS": ""}


def python(env: dict[str, str], *command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_migrations_run_and_leave_nothing_to_migrate(env: dict[str, str]) -> None:
    python(env, "manage.py", "migrate", "-v", "0")
    vendor = "from django.db import connection; print(connection.vendor)"
    assert "postgresql" in python(env, "manage.py", "shell", "-v", "0", "-c", vendor)
    assert "No changes" in python(env, "manage.py", "makemigrations", "--check", "--dry-run")


def test_the_state_machine_keeps_its_promises_there_too(env: dict[str, str]) -> None:
    assert " passed" in python(env, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "-n", "0", *SAME_TESTS)


CLAIM = """
import django, json, sys
django.setup()
from webapp.services.run_leases import run_claim
print(json.dumps([run_claim(run_id=int(pk), owner=sys.argv[1]) is not None for pk in sys.argv[2:]]))
"""
SUBMIT = """
import django
django.setup()
from webapp.models import Team
from webapp.services import runs
runs.enqueue = lambda kind, run_id: None
team = Team.objects.create(slug="race", name="Race")
print(*[runs.run_submit(team=team, user=None, kind="train", spec={}, title="r").pk for _ in range(50)])
"""


def test_of_three_workers_that_claim_the_same_runs_each_run_has_one(env: dict[str, str]) -> None:
    python(env, "manage.py", "migrate", "-v", "0")
    env = {**env, "DJANGO_SETTINGS_MODULE": "webapp.settings"}
    runs = python(env, "-c", SUBMIT).split()
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda who: python(env, "-c", CLAIM, who, *runs), ("a", "b", "c")))
    won = [json.loads(answer) for answer in answers]
    assert [sum(column) for column in zip(*won, strict=True)] == [1] * 50
