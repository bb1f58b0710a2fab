"""`make up`: everything on this machine, under one supervisor in the foreground, until Ctrl-C.

Guarantees: one supervisor a <var> folder; a port that is taken is said at once, before anything starts; the address and
the demo login are printed when /healthz says that every part is ready; Ctrl-C or SIGTERM ends every process, a second
Ctrl-C at once; the exit code is 0 after a clean stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from jobs import embedded, stream_redis
from jobs.guardian import end
from jobs.stream import ENGINES
from jobs.supervisor import Supervisor
from jobs.up_log import UpLog
from jobs.up_parts import SERVICE_NAMES, Plan, all_parts
from ml.errors import ColdframeError, UnavailableError
from webapp.checks import check_embedded_services, check_exposure
from webapp.selectors.health import ALIVE

MAX_FILES = 65_536


def plan_from_settings() -> Plan:
    from django.conf import settings

    from webapp.config import Config

    config = Config()
    return Plan(
        var=settings.VAR_DIR,
        host=settings.HOST,
        port=settings.PORT,
        redis_url=config.redis_url,
        chroma_url=config.chroma_url,
        demo=settings.DEMO,
        bases=settings.BASE_MODELS,
        engine_threads=settings.ENGINE_THREADS,
    )


def check_port(plan: Plan) -> None:
    if not embedded.port_is_free(plan.port, plan.host.strip("[]")):
        raise embedded.SetupError(
            f"Port {plan.port} on {plan.host} is taken by another program.",
            hint=f"Stop that program, or choose another port: PORT={plan.port + 1} make up",
        )


def health_of(address: str) -> dict[str, Any]:
    """What /healthz says, `{}` when nothing answers yet."""
    try:
        with urllib.request.urlopen(f"{address}/healthz", timeout=5) as answer:  # noqa: S310 - own address
            body: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        with contextlib.suppress(ValueError):
            body = json.load(error)
            return body
        return {}
    except (OSError, ValueError):
        return {}
    return body


def waiting_for(health: dict[str, Any]) -> str:
    """`engine: loading the model; models: converting …`, of the parts that are not ready."""
    parts: dict[str, dict[str, Any]] = health.get("parts", {})
    return "; ".join(f"{name}: {part.get('text') or part.get('state')}" for name, part in parts.items()
                     if part.get("state") != "ready")  # fmt: skip


def greeting(plan: Plan, seconds: float) -> str:
    lines = ["", f"Coldframe is ready after {seconds:.0f} s:  {plan.address}"]
    if plan.demo:
        from webapp.context import DEMO_PASSWORD, DEMO_USER

        lines.append(f"Sign in as {DEMO_USER} with the password {DEMO_PASSWORD}")
    return "\n".join([*lines, "Ctrl-C stops it.", ""])


def forget_signs_of_life(redis_url: str) -> None:
    """The embedded redis remembers the beats of the last start, which may have been killed seconds ago."""
    stream_redis.configure(redis_url)
    with contextlib.suppress(UnavailableError), stream_redis.redis_errors("forget the last start"):
        stream_redis.client().delete(ENGINES, *ALIVE.values())


async def announce(plan: Plan, supervisor: Supervisor, log: UpLog, started: float) -> None:
    """Says what is still missing while it changes, then the address."""
    if "redis" in supervisor.parts:
        await supervisor.wait_ready("redis")
        await asyncio.to_thread(forget_signs_of_life, embedded.embedded_redis_url(plan.var))
    await supervisor.wait_ready("web")
    said = ""
    while True:
        health = await asyncio.to_thread(health_of, plan.address)
        if health.get("ready"):
            break
        text = waiting_for(health)
        if not said:
            log.note(f"{plan.address} answers already; the rest is on its way")
        if text and text != said:
            log.note(f"waiting for {text}")
        said = text or said or "-"
        await asyncio.sleep(0.5)
    log.note(greeting(plan, time.monotonic() - started))


async def supervise(plan: Plan, log: UpLog, parts: list[Any]) -> int:
    supervisor = Supervisor(parts, log=log)
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if supervisor.stopping.is_set():
            log.note("stopping at once")
            end({process.pid for process in supervisor.running.values()}, grace_s=0)
            return
        log.note("stopping …")
        supervisor.stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    announcer = asyncio.create_task(announce(plan, supervisor, log, time.monotonic()))
    try:
        return await supervisor.run()
    finally:
        announcer.cancel()
        log.note("everything is stopped")


def raise_file_limit() -> None:
    """Every connection is a file: the usual soft limit of 1,024 would end the web server long before memory does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run(plan: Plan) -> int:
    """Supervise until stopped. Raises SetupError when it cannot start."""
    os.umask(0o077)
    raise_file_limit()
    plan.var.mkdir(parents=True, exist_ok=True)
    check_port(plan)
    lock = embedded.take_lock(
        plan.var / "up.lock", purpose=f"Coldframe in {plan.var}", hint="Stop it first, or set COLDFRAME_VAR to another."
    )
    try:
        parts, endpoints = all_parts(plan)
        endpoints.save(plan.var)
        log = UpLog(folder=plan.var / "logs", names=tuple(part.name for part in parts), quiet=frozenset(SERVICE_NAMES))
        for warning in (*check_exposure(None), *check_embedded_services(None)):
            log.note(f"Warning: {warning.msg}\n  {warning.hint}")
        try:
            return asyncio.run(supervise(plan, log, parts))
        finally:
            log.close()
    finally:
        os.close(lock)


def main() -> int:
    try:
        return run(plan_from_settings())
    except ColdframeError as error:
        sys.stderr.write(f"{error.message}\n{error.hint}\n")
        return 1
