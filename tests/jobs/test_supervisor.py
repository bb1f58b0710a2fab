"""The supervisor of `make up`, on small shell commands."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.supervisor import Part, Supervisor, restart_delay
from tests.jobs.processes import is_alive

ROOT = Path(__file__).resolve().parents[2]


class Lines:
    """A log sink that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def line(self, name: str, text: str) -> None:
        self.lines.append((name, text))

    def note(self, text: str) -> None:
        self.lines.append(("", text))

    def of(self, name: str) -> list[str]:
        return [text for who, text in self.lines if who == name]


async def until(condition: Callable[[], bool], *, within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        await asyncio.sleep(0.02)


def until_now(condition: Callable[[], bool], *, within_s: float = 20) -> None:
    asyncio.run(until(condition, within_s=within_s))


def shell(name: str, script: str, **more: object) -> Part:
    return Part(name=name, command=("/bin/bash", "-c", script), **more)  # type: ignore[arg-type]


@pytest.fixture
def log() -> Lines:
    return Lines()


def test_the_delay_before_a_restart_doubles_up_to_thirty_seconds() -> None:
    delays, failures = [], 0
    for _ in range(7):
        delay, failures = restart_delay(n_failures=failures, ran_s=0.1)
        delays.append(delay)
    assert delays == [1, 2, 4, 8, 16, 30, 30]


def test_the_delay_starts_anew_after_a_healthy_minute() -> None:
    assert restart_delay(n_failures=6, ran_s=61) == (1, 1)


async def test_a_part_starts_only_after_those_it_needs_are_ready(log: Lines) -> None:
    asked = 0

    async def on_third_asking() -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    first = shell("first", "sleep 60", ready=on_third_asking)
    second = shell("second", "echo started; sleep 60", after=("first",))
    supervisor = Supervisor([second, first], log=log)
    running = asyncio.create_task(supervisor.run())
    await until(lambda: log.of("second") == ["started"])
    assert asked == 3
    supervisor.stop()
    assert await running == 0


async def test_a_part_that_dies_is_started_again(log: Lines) -> None:
    supervisor = Supervisor([shell("one", "echo up; exit 3")], log=log)
    running = asyncio.create_task(supervisor.run())
    await until(lambda: len(log.of("one")) == 2)
    assert "one ended with exit code 3 (see one.log); starting it again in 1 s" in log.of("")
    supervisor.stop()
    await running


async def test_a_task_that_ends_well_is_not_started_again(log: Lines) -> None:
    supervisor = Supervisor(
        [shell("task", "echo done", once=True), shell("next", "echo go; sleep 60", after=("task",))], log=log
    )
    running = asyncio.create_task(supervisor.run())
    await until(lambda: log.of("next") == ["go"])
    assert supervisor.n_starts["task"] == 1
    supervisor.stop()
    await running


async def test_an_essential_task_that_fails_stops_everything(log: Lines) -> None:
    supervisor = Supervisor([shell("other", "sleep 60"), shell("task", "echo why; exit 4", once=True)], log=log)
    assert await asyncio.wait_for(supervisor.run(), timeout=20) == 1
    assert "task failed with exit code 4; what it said stands above. Stopping." in log.of("")
    assert not is_alive(supervisor.running["other"].pid)


async def test_the_services_stop_after_those_that_use_them(log: Lines) -> None:
    script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    supervisor = Supervisor([shell("service", script, stage=1), shell("user", script)], log=log)
    running = asyncio.create_task(supervisor.run())
    await until(lambda: log.of("service") == ["up"] and log.of("user") == ["up"])
    supervisor.stop()
    await running
    assert [name for name, text in log.lines if text == "bye"] == ["user", "service"]


async def test_a_part_that_ignores_the_polite_signal_is_killed(log: Lines) -> None:
    supervisor = Supervisor([shell("deaf", "trap '' TERM; echo up; while :; do sleep 1; done")], log=log, grace_s=0.2)
    running = asyncio.create_task(supervisor.run())
    await until(lambda: log.of("deaf") == ["up"])
    pid = supervisor.running["deaf"].pid
    supervisor.stop()
    await asyncio.wait_for(running, timeout=20)
    assert not is_alive(pid)


async def test_what_a_part_left_in_a_session_of_its_own_is_ended_too(log: Lines) -> None:
    script = f"{sys.executable} -c 'import os,time; os.setsid(); print(os.getpid(), flush=True); time.sleep(60)' & wait"
    supervisor = Supervisor([shell("part", script)], log=log)
    running = asyncio.create_task(supervisor.run())
    await until(lambda: bool(log.of("part")))
    grandchild = int(log.of("part")[0])
    assert is_alive(grandchild)
    supervisor.stop()
    await running
    await until(lambda: not is_alive(grandchild))


KILLED = """
import asyncio, os, sys
from jobs.supervisor import Part, Supervisor
class Out:
    def line(self, name, text): print(text, flush=True)
    def note(self, text): pass
deaf = Part(name="deaf", command=("/bin/bash", "-c", "trap '' TERM; echo $$; while :; do sleep 0.2; done"))
asyncio.run(Supervisor([deaf], log=Out()).run())
"""


def test_nothing_outlives_a_supervisor_that_is_killed() -> None:
    """Bug told: after kill -9 of the supervisor its parts kept running, and held the ports."""
    with subprocess.Popen([sys.executable, "-c", KILLED], cwd=ROOT, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        assert is_alive(pid)
        os.kill(supervisor.pid, signal.SIGKILL)
        until_now(lambda: not is_alive(pid))
