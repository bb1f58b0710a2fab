"""The real processes around a run, on a database file and a redis of their own: worker, reconciler, tiny model.

`Stack` starts and kills them; `Stack.do` carries out one action of `tests/jobs/remote.py` in a process of its own, as a
web process would; `Stack.row` reads a run straight from the file. A lease lasts two seconds here.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import redis

from tests.jobs.redis_fixture import RedisChild
from tests.ml.conftest import COLOURS, save_dataset, save_tiny_llama

ROOT = Path(__file__).resolve().parents[2]
LEASE_S = 2
WORKER = ("-m", "celery", "-A", "jobs.celery", "worker", "--concurrency", "1", "--loglevel", "INFO", "-Q", "gpu")


def until(is_true: Callable[[], Any], what: str, *, for_s: float = 300, log: Callable[[], str] = str) -> Any:
    """What `is_true` finally says. Fails with `what` and the log when it never does."""
    deadline = time.monotonic() + for_s
    while True:
        found = is_true()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not happen in {for_s:g} s\n{log()}"
        time.sleep(0.05)


class Stack:
    def __init__(self, folder: Path) -> None:
        self.var = folder / "var"
        (folder / "redis").mkdir(parents=True)
        self.redis = RedisChild(folder / "redis")
        save_tiny_llama(self.var / "models" / "tiny-llama")
        self._save_dataset()
        self.env = {
            **os.environ, "COLDFRAME_VAR": str(self.var), "REDIS_URL": self.redis.url, "RUN_LEASE_S": str(LEASE_S),
            "RUN_NICE": "0",
            "DATABASE_URL": "", "STORAGE_URL": "", "DJANGO_SETTINGS_MODULE": "webapp.settings", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        self.log = (folder / "log").open("a+")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        subprocess.run([sys.executable, "manage.py", "migrate", "-v", "0"], cwd=ROOT, env=self.env, check=True)

    def _save_dataset(self) -> None:
        things = [(thing, colour) for colour, names in COLOURS.items() for thing in names]
        rows = [
            {"row": i + 1, "messages": [{"role": "user", "content": f"{things[i % 10][0]}?"}],
             "completion": things[i % 10][1]}
            for i in range(30)
        ]  # fmt: skip
        splits = {"train": rows[:20], "validation": rows[20:25], "test": rows[25:]}
        folder = self.var / "storage" / "datasets" / ("a" * 64)
        save_dataset(folder, splits, task="classification", labels=sorted(COLOURS))

    def start(self, name: str) -> None:
        command = {"worker": WORKER, "worker2": WORKER, "reconciler": ("manage.py", "reconcile")}[name]
        extra = ("-n", f"{name}@test") if name.startswith("worker") else ()
        self.processes[name] = subprocess.Popen(
            [sys.executable, *command, *extra], cwd=ROOT, env=self.env, stdout=self.log, stderr=self.log
        )

    def signal(self, name: str, number: int) -> None:
        self.processes[name].send_signal(number)
        self.processes[name].wait(60)

    def log_text(self) -> str:
        self.log.flush()
        return Path(self.log.name).read_text()[-6000:]

    def do(self, action: str, **values: Any) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "tests.jobs.remote", action, json.dumps(values)],
            cwd=ROOT, env=self.env, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def query(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        connection = sqlite3.connect(f"file:{self.var / 'db.sqlite3'}?mode=ro", uri=True, timeout=30)
        connection.row_factory = sqlite3.Row
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()

    def row(self, run_id: int) -> sqlite3.Row:
        return self.query("SELECT * FROM webapp_run WHERE id = ?", run_id)[0]

    def n_steps(self, run_id: int) -> int:
        found = self.query("SELECT max(step) AS last FROM webapp_runmetric WHERE run_id = ?", run_id)[0]["last"]
        return int(found or 0)

    def wait_state(self, run_id: int, *states: str) -> sqlite3.Row:
        def reached() -> Any:
            row = self.row(run_id)
            return row if row["state"] in states else None

        row: sqlite3.Row = until(reached, f"run {run_id} being {states}", log=self.log_text)
        return row

    def wait_step(self, run_id: int, step: int) -> None:
        until(lambda: self.n_steps(run_id) >= step, f"step {step} of run {run_id}", log=self.log_text)

    def supervisor_of(self, run_id: int) -> psutil.Process:
        return psutil.Process(int(self.row(run_id)["owner"].rpartition(":")[2]))

    def trainer_of(self, run_id: int) -> psutil.Process:
        return self.supervisor_of(run_id).children()[0]

    def artifact_of(self, run_id: int) -> str:
        """sha256 of the trained weights of the one version that the run published."""
        versions = self.query("SELECT manifest FROM webapp_adapterversion WHERE run_id = ?", run_id)
        assert len(versions) == 1
        files: dict[str, Any] = json.loads(versions[0]["manifest"])["files"]
        return str(files["adapter_model.safetensors"]["sha256"])

    def queue_length(self, queue: str) -> int:
        return int(redis.Redis.from_url(self.redis.url).llen(queue))  # type: ignore[arg-type]

    def flush_broker(self) -> None:
        redis.Redis.from_url(self.redis.url).flushall()

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                family = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGKILL)
                process.wait()
                for member in family:
                    if member.is_running():
                        member.kill()
        self.redis.stop()
        self.log.close()
