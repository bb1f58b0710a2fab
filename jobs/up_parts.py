"""The table of parts that `make up` keeps: what each runs, what it needs first, when it is ready, when it stops.

Parts whose URL is given are left out: they run elsewhere. Everything binds loopback, the web server too unless HOST
says otherwise. There is one engine a base model; the engines share all cores, and trainers run niced beside them
(jobs/supervise.py).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs import embedded, starter
from jobs.supervisor import Part

ROOT = Path(__file__).resolve().parent.parent
REDIS_PORT, CHROMA_PORT = 6399, 6398
SERVICES = 1
"""Stage of stopping: the services go last, since everything else writes to them until its end."""
SERVICE_NAMES = ("redis", "chroma")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked for: settings, and the URLs given (empty: embedded)."""

    var: Path
    host: str = embedded.LOOPBACK
    port: int = 8000
    redis_url: str = ""
    chroma_url: str = ""
    demo: bool = True
    bases: tuple[str, ...] = ("",)
    """Base models to serve, one engine each; "" is the first of BASE_MODELS."""
    engine_threads: int = 0
    """Of each engine; 0 divides the cores among them."""

    @property
    def asked_at(self) -> str:
        """Host at which this machine reaches the web server."""
        host = {"0.0.0.0": embedded.LOOPBACK, "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 - compared only
        return f"[{host}]" if ":" in host and not host.startswith("[") else host

    @property
    def address(self) -> str:
        return f"http://{self.asked_at}:{self.port}"


async def http_status(url: str, *, timeout_s: float = 3) -> int:
    """Status of a GET, 0 when nothing answers."""

    def ask() -> int:
        try:
            with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310 - own loopback address
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return int(error.code)
        except (OSError, ValueError):
            return 0

    return await asyncio.to_thread(ask)


def answers(url: str, *, statuses: tuple[int, ...] = ()) -> Callable[[], Awaitable[bool]]:
    """Ready once the address answers with one of `statuses` (any, when none are named)."""

    async def ask() -> bool:
        status = await http_status(url)
        return status in statuses if statuses else status > 0

    return ask


def redis_answers(port: int, password: str) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        reader, writer = await asyncio.open_connection(embedded.LOOPBACK, port)
        try:
            writer.write(f"AUTH {password}\r\nPING\r\n".encode())
            said = await reader.readuntil(b"PONG\r\n")
            return b"+OK" in said
        finally:
            writer.close()

    return ask


def redis_part(plan: Plan, *, port: int) -> Part:
    folder = plan.var / "redis"
    folder.mkdir(parents=True, exist_ok=True)
    password = embedded.redis_password(folder)
    return Part(
        name="redis",
        command=embedded.redis_command(),
        stdin=embedded.redis_config(port=port, password=password),
        cwd=folder,
        ready=redis_answers(port, password),
        stage=SERVICES,
    )


def chroma_part(plan: Plan, *, port: int) -> Part:
    folder = plan.var / "chroma"
    lock = embedded.take_lock(
        folder / ".lock",
        purpose=f"The vector store in {folder}",
        hint="Stop the other one: two servers on one folder would corrupt it.",
    )
    return Part(
        name="chroma",
        command=embedded.chroma_command(folder=folder, port=port),
        env={"ANONYMIZED_TELEMETRY": "False"},
        cwd=folder,
        ready=answers(f"http://{embedded.LOOPBACK}:{port}/api/v2/heartbeat", statuses=(200,)),
        pass_fds=(lock,),
        stage=SERVICES,
    )


def embedded_parts(plan: Plan) -> tuple[list[Part], embedded.Endpoints]:
    """The services to start here, and where everything is reached."""
    parts, redis_url, chroma_url, taken = [], plan.redis_url, plan.chroma_url, frozenset({plan.port})
    if not redis_url:
        port = embedded.free_port(prefer=embedded.saved_port(plan.var, "redis_url", REDIS_PORT), avoid=taken)
        parts.append(redis_part(plan, port=port))
        redis_url = f"redis://:{embedded.redis_password(plan.var / 'redis')}@{embedded.LOOPBACK}:{port}/0"
        taken |= {port}
    if not chroma_url:
        port = embedded.free_port(prefer=embedded.saved_port(plan.var, "chroma_url", CHROMA_PORT), avoid=taken)
        parts.append(chroma_part(plan, port=port))
        chroma_url = f"http://{embedded.LOOPBACK}:{port}"
    return parts, embedded.Endpoints(redis_url=redis_url, chroma_url=chroma_url)


def common_env(plan: Plan, endpoints: embedded.Endpoints) -> dict[str, str]:
    """Every part's environment. The children need no model hub, whose calls would retry for 23 s offline."""
    return {
        "DJANGO_SETTINGS_MODULE": "webapp.settings",
        "COLDFRAME_VAR": str(plan.var),
        "REDIS_URL": endpoints.redis_url,
        "CHROMA_URL": endpoints.chroma_url,
        "PORT": str(plan.port),
        "HOST": plan.host,
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "ANONYMIZED_TELEMETRY": "False",
        "TOKENIZERS_PARALLELISM": "false",
        # Engine and training share the cores: OpenMP threads that spin while they wait slow both many times over.
        "OMP_WAIT_POLICY": "passive",
        # Celery's, to whoever is root: everything here serves loopback only, and messages are JSON.
        "PYTHONWARNINGS": "ignore:You're running the worker with superuser",
    }


def thread_env(n: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(n), "MKL_NUM_THREADS": str(n), "OPENBLAS_NUM_THREADS": str(n)}


def engine_parts(plan: Plan, env: Mapping[str, str], after: tuple[str, ...]) -> list[Part]:
    """Loading a model takes longest and needs no database: it begins at once. Told to stop, an engine does not drain,
    since nothing is left to wait for its answers; they go on at the next start."""
    n_threads = plan.engine_threads or max(1, (os.cpu_count() or 1) // len(plan.bases))
    env = {**env, **thread_env(n_threads), "ENGINE_THREADS": str(n_threads)}
    manage = (sys.executable, str(ROOT / "manage.py"))
    return [
        Part(
            name=f"engine-{base}" if place else "engine", command=(*manage, "engine", "--base", base), env=env,
            cwd=ROOT, after=after, stop_signal=signal.SIGINT,
        )
        for place, base in enumerate(plan.bases)
    ]  # fmt: skip


def own_parts(plan: Plan, env: Mapping[str, str], services: tuple[str, ...]) -> list[Part]:
    """Coldframe's own processes; `services` are the embedded parts they need."""
    manage = (sys.executable, str(ROOT / "manage.py"))
    celery = (
        sys.executable, "-m", "celery", "--quiet", "-A", "jobs.celery", "worker", "--concurrency", "1",
        "--loglevel", "INFO", "--without-gossip", "--without-mingle",
    )  # fmt: skip
    web = (
        sys.executable, "-m", "uvicorn", "webapp.asgi:application", "--host", plan.host, "--port", str(plan.port),
        "--no-server-header", "--no-access-log", "--lifespan", "off", "--timeout-graceful-shutdown", "2",
    )  # fmt: skip
    # A process that has loaded a tokenizer shows the next preview at once; none lives long enough to grow.
    reused = ("--max-tasks-per-child", "50")
    light = {**env, **thread_env(1)}
    redis = tuple(name for name in services if name == "redis")
    needs = ("prepare", *redis)
    # On a new machine runs wait for the starter models rather than fail for want of them, as the demo's first would.
    models = () if starter.are_there(plan.var / "models") else ("models",)
    return [
        Part(name="prepare", command=(*manage, "prepare"), env=light, cwd=ROOT, once=True, after=redis),
        Part(name="web", command=web, env=light, cwd=ROOT, after=needs, ready=answers(f"{plan.address}/healthz")),
        *engine_parts(plan, env, redis),
        Part(
            name="models", command=(sys.executable, "-m", "jobs.starter", "--into", str(plan.var / "models")),
            env=env, cwd=ROOT, once=True, essential=False, after=("web",),
        ),
        Part(
            name="gpu", command=(*celery, "-Q", "gpu", "-n", "gpu@%h"), env=env, cwd=ROOT, after=(*needs, *models),
        ),
        Part(name="cpu", command=(*celery, "-Q", "cpu", "-n", "cpu@%h", *reused), env=light, cwd=ROOT, after=needs),
        Part(name="eval", command=(*celery, "-Q", "eval", "-n", "eval@%h", *reused), env=light, cwd=ROOT, after=needs),
        Part(name="reconciler", command=(*manage, "reconcile"), env=light, cwd=ROOT, after=needs),
    ]  # fmt: skip


def all_parts(plan: Plan) -> tuple[list[Part], embedded.Endpoints]:
    services, endpoints = embedded_parts(plan)
    return services + own_parts(plan, common_env(plan, endpoints), tuple(part.name for part in services)), endpoints
