"""What all tests share: which of them run, and services to run against.

`slow` tests run with --run-slow only. `e2e` tests need a Chromium; where there is none they are left out, and the
closing summary says so in plain words, since a left-out test must never look like a passed one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# Imported early on purpose: a garbage collection during its deep import chain at the end of a session makes Python
# 3.11.7 stop with "AST constructor recursion depth mismatch" (CPython issue 106905).
import hypothesis  # noqa: F401
import pytest

# No test asks a model hub: such a call retries for 23 s offline.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

NOWHERE = "redis://127.0.0.1:1/0"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def browser_path() -> str | None:
    """The Chromium that the browser tests drive; CHROMIUM names another."""
    named = os.environ.get("CHROMIUM")
    if named:
        return named if Path(named).is_file() else None
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def gpu_tests_device() -> str:
    """What tests/gpu run on: `cuda` where torch finds one; GPU_TESTS_DEVICE=cpu rehearses them; empty: nothing."""
    if named := os.environ.get("GPU_TESTS_DEVICE"):
        return named
    from jobs.devices import device_names

    if device_names() == ["cpu"]:  # spares sessions without a GPU the import of torch
        return ""
    import torch

    return "cuda" if torch.cuda.is_available() else ""


def pytest_configure(config: pytest.Config) -> None:
    """Tests touch neither the data nor the services of a `make up` that runs beside them, only its starter models."""
    from django.conf import settings

    var = Path(tempfile.mkdtemp(prefix="cf-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(var, ignore_errors=True))
    settings.VAR_DIR, settings.STORAGE_DIR, settings.RUNS_DIR = var, var / "storage", var / "runs"
    settings.REDIS_URL, settings.CHROMA_URL, settings.STORAGE_URL = NOWHERE, "http://127.0.0.1:1", ""
    for folder in (settings.STORAGE_DIR, settings.RUNS_DIR):
        folder.mkdir()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run the tests that take minutes as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    has_browser = browser_path() is not None
    left_out = [
        item
        for item in items
        if (item.get_closest_marker("slow") and not config.getoption("--run-slow"))
        or (item.get_closest_marker("e2e") and not has_browser)
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if browser_path() is None:
        terminalreporter.write_line(
            "The browser tests (e2e) were LEFT OUT: there is no Chromium on PATH. Debian: apt-get install chromium; "
            "elsewhere name one: CHROMIUM=/path/to/chrome make test",
            yellow=True,
            bold=True,
        )
    if not gpu_tests_device():
        terminalreporter.write_line("The tests of tests/gpu were left out: no CUDA device was found.")
    if not config.getoption("--run-slow"):
        terminalreporter.write_line("The tests marked slow were left out; make test-slow runs them.")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's path; tests that use it carry the marker e2e and are left out where there is none."""
    path = browser_path()
    assert path is not None, "mark this test with pytest.mark.e2e"
    return path


@pytest.fixture(scope="session")
def redis_address() -> Iterator[str]:
    """The URL of a real redis of this test session's own."""
    from jobs import embedded, supervisor
    from jobs.up_parts import redis_answers

    port = embedded.free_port()
    with tempfile.TemporaryDirectory(prefix="cf-redis-") as folder:
        command = [*embedded.redis_command(), "--appendonly", "no"]
        # Leashed: a test session that is killed takes its redis along.
        server = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, text=True, preexec_fn=supervisor.leash(os.getpid())
        )
        try:
            assert server.stdin is not None
            server.stdin.write(embedded.redis_config(port=port, password="test"))
            server.stdin.close()
            _wait_for_redis(redis_answers(port, "test"), server)
            yield f"redis://:test@127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait(timeout=10)


def _wait_for_redis(answers: object, server: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 20
    while server.poll() is None and time.monotonic() < deadline:
        try:
            if asyncio.run(answers()):  # type: ignore[operator]
                return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"redis did not start (exit code {server.poll()})")


@pytest.fixture
def redis_url(redis_address: str) -> Iterator[str]:
    """An empty redis, which jobs.stream uses for the length of the test."""
    import redis

    from jobs import stream_redis

    redis.Redis.from_url(redis_address).flushall()
    stream_redis.configure(redis_address)
    yield redis_address
    stream_redis.configure("")
