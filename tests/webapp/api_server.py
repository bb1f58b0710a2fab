"""A really running web server with a database of its own, for tests with real clients."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from jobs import stream, stream_redis
from jobs.embedded import free_port

ROOT = Path(__file__).parents[2]
SETUP = (
    "from django.contrib.auth.models import User; from webapp.models import Membership, Team; "
    "m = Membership.objects.create(team=Team.objects.create(slug='t', name='T'), role='admin', "
    "user=User.objects.create_user('u', password='a-long-password-1'))"
)


def wait_for(is_there: object, *processes: subprocess.Popen[bytes], what: str) -> None:
    deadline = time.monotonic() + 90
    while not is_there():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"{what} did not come up"
        assert all(p.poll() is None for p in processes), f"{what}: a process has ended"
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/openapi.json", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def running(redis_url: str, var: Path, *engine: str, **environ: str) -> Iterator[tuple[str, str]]:
    """(address, token) of a uvicorn; `engine` is the command line of what plays the engine beside it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environ = {
        **os.environ, "COLDFRAME_VAR": str(var), "REDIS_URL": redis_url,
        "DJANGO_SETTINGS_MODULE": "webapp.settings", "DATABASE_URL": "", **environ,
    }  # fmt: skip
    for command in (["migrate", "-v0"], ["shell", "-v0", "-c", SETUP]):
        subprocess.run([sys.executable, "manage.py", *command], cwd=ROOT, env=environ, check=True)
    command = [sys.executable, "manage.py", "create_token", "--team", "t", "--name", "probe"]
    made = subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True, text=True)
    serve = ["uvicorn", "webapp.asgi:application", "--port", str(port), "--log-level", "warning",
             "--timeout-graceful-shutdown", "2"]  # fmt: skip
    processes = [
        subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=environ) for command in (serve, [*engine])
    ]
    stream_redis.configure(redis_url)
    try:
        wait_for(lambda: _answers(url), *processes, what="the web server")
        wait_for(lambda: [e for e in stream.engines() if e["state"] == "ready"], *processes, what="the engine")
        yield url, made.stdout.strip()
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=20)
        stream_redis.configure("")
