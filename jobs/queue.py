"""Rings a worker: one message to the broker that says which run to look at.

Light: web processes import it, so kombu is imported at the first message and Celery never; the message is Celery's
protocol 2 (docs.celeryq.dev, "Message Protocol"). A broker that does not answer raises UnavailableError within about
two seconds. Messages may be lost or doubled: the database is the queue, and claims are fenced.
"""

from __future__ import annotations

import json
import os
import re
import socket
import uuid
from typing import Any

from jobs.stream_redis import client, redis_errors, redis_url
from ml.errors import UnavailableError

QUEUE_OF = {"train": "gpu", "ingest": "gpu", "validate": "cpu", "import": "cpu", "export": "cpu",
            "evaluate": "eval", "study": "gpu", "batch": "eval"}  # fmt: skip
TASK_OF = {"gpu": "jobs.run", "cpu": "jobs.run_short", "eval": "jobs.run"}
TIMEOUT_S = 2


def enqueue(kind: str, run_id: int) -> None:
    """Tells the workers of the kind's queue about the run. Raises UnavailableError when the broker is away."""
    queue = QUEUE_OF[kind]
    _send(queue, TASK_OF[queue], f"run-{run_id}", run_id)


def enqueue_inspect(upload_id: int) -> None:
    """Has a worker look at an upload (jobs/inspect_upload.py). Raises UnavailableError when the broker is away."""
    _send("cpu", "jobs.inspect", f"upload-{upload_id}", upload_id)


def _send(queue: str, task: str, name: str, argument: int) -> None:
    from kombu.connection import Connection
    from kombu.exceptions import OperationalError

    body, headers, properties = _message(task, name, argument)
    options = {"socket_connect_timeout": TIMEOUT_S, "socket_timeout": TIMEOUT_S, "max_retries": 0}
    connection = Connection(redis_url(), transport_options=options, connect_timeout=TIMEOUT_S)
    away: tuple[type[BaseException], ...] = (OperationalError, OSError, *connection.connection_errors)
    try:
        with connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=TIMEOUT_S)
            connection.Producer(serializer="json").publish(
                body, exchange="", routing_key=queue, headers=headers, retry=False, delivery_mode=2, **properties
            )
    except away as error:
        raise UnavailableError(
            f"The queue does not answer ({type(error).__name__}).", hint="It is tried again every few seconds."
        ) from error


def _message(task: str, name: str, argument: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    task_id = f"{name}-{uuid.uuid4().hex}"
    headers = {
        "lang": "py", "task": task, "id": task_id, "root_id": task_id, "parent_id": None, "group": None, "shadow": None,
        "eta": None, "expires": None, "retries": 0, "timelimit": [None, None], "ignore_result": True,
        "argsrepr": f"({argument},)", "kwargsrepr": "{}", "origin": f"{os.getpid()}@{socket.gethostname()}",
    }  # fmt: skip
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return [[argument], {}, embed], headers, {"correlation_id": task_id, "content_encoding": "utf-8"}


def waiting_in(queue: str) -> set[int]:
    """Ids of the runs whose messages lie in the queue. Raises UnavailableError."""
    with redis_errors("look into the queue"):
        messages = client().lrange(queue, 0, -1)
    found = set()
    for message in messages:
        match = re.fullmatch(r"run-(\d+)-\w+", str(json.loads(message).get("headers", {}).get("id", "")))
        if match:
            found.add(int(match.group(1)))
    return found
