"""The Celery application: three queues, three tasks, and what each worker tells about itself.

`celery -A jobs.celery worker -Q gpu|cpu|eval`. Messages are doorbells only: the lease in the database is what gives a
run to a worker, so `gpu` and `eval` messages are acknowledged at once and no visibility timeout ever repeats a
day-long run. A worker that is told to stop passes SIGTERM on to its running task, which lets the trainer write a
checkpoint. Every worker keeps `cf:worker:<queue>` alive in Redis for /healthz.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from typing import Any

import django
import redis
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
if not settings.configured or not django.apps.apps.ready:
    django.setup()

from celery import Celery
from celery.signals import worker_ready, worker_shutting_down
from celery.worker import state
from kombu.entity import Exchange, Queue

from jobs.stream_redis import client, redis_url

logger = logging.getLogger(__name__)

HEARTBEAT_S, HEARTBEAT_TTL_S = 10, 30
DEAF_AFTER_S = 60
SOFT_LIMIT_S, HARD_LIMIT_S = 540, 600
INSPECT_LIMIT_S = 270

app = Celery("coldframe", broker=redis_url())
app.conf.update(
    task_queues=tuple(Queue(name, exchange=Exchange(name), routing_key=name) for name in ("gpu", "cpu", "eval")),
    task_default_queue="cpu",
    accept_content=["json"],
    task_acks_late=False,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    worker_max_tasks_per_child=1,
    worker_hijack_root_logger=False,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={"visibility_timeout": 3600, "socket_keepalive": True, "health_check_interval": 25},
)


@app.task(name="jobs.run")
def run(run_id: int) -> str:
    """Training, embedding and evaluation: may take days; acknowledged at once."""
    from jobs.supervise import supervise

    return supervise(run_id)


@app.task(
    name="jobs.run_short", acks_late=True, reject_on_worker_lost=True,
    soft_time_limit=SOFT_LIMIT_S, time_limit=HARD_LIMIT_S,
)  # fmt: skip
def run_short(run_id: int) -> str:
    """Reading uploads: minutes at most; the supervisor's own limit comes before Celery's."""
    from jobs.supervise import supervise

    return supervise(run_id, limit_s=SOFT_LIMIT_S - 60)


def _beat(names: list[str], stopped: threading.Event) -> None:
    n_idle = 0
    while True:
        try:
            for name in names:
                client().set(f"cf:worker:{name}", os.getpid(), ex=HEARTBEAT_TTL_S)
            n_idle = n_idle + 1 if is_deaf(names) else 0
        except redis.RedisError as error:
            n_idle = 0
            logger.warning("heartbeat not written: %s", type(error).__name__)
        if n_idle > DEAF_AFTER_S / HEARTBEAT_S:
            logger.error("messages wait in %s and this worker takes none: it ends, to be started again", names)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if stopped.wait(HEARTBEAT_S):
            return


def is_deaf(names: list[str]) -> bool:
    """True while messages lie in the worker's queues and it works on nothing (celery #8030, #8091, #9054, #10205)."""
    return not state.reserved_requests and any(client().llen(name) for name in names)


@app.task(name="jobs.inspect", soft_time_limit=INSPECT_LIMIT_S, time_limit=INSPECT_LIMIT_S + 30)
def inspect(upload_id: int) -> str:
    """A look at an upload; acknowledged at once: people can ask again, and a file that kills must not come back."""
    from jobs.inspect_upload import inspect

    return inspect(upload_id)


@worker_ready.connect
def keep_heartbeat(sender: Any, **_: Any) -> None:
    """A thread of the worker's main process says every few seconds that the worker consumes its queues."""
    stopped = threading.Event()
    worker_shutting_down.connect(lambda **_: stopped.set(), weak=False)
    names = list(sender.app.amqp.queues.consume_from)
    threading.Thread(target=_beat, args=(names, stopped), name="heartbeat", daemon=True).start()


@worker_shutting_down.connect
def pass_on_sigterm(**_: Any) -> None:
    """Celery's warm shutdown waits for running tasks; a supervisor stops its trainer when it gets SIGTERM."""
    import psutil

    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            child.send_signal(signal.SIGTERM)
