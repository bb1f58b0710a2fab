"""The process that mends what got lost between the database and the broker: `manage.py reconcile`.

Every pass, by default every 15 s: expires the leases of workers that stopped beating and puts their runs back in line;
sends doorbells that were never sent, and again those of waiting runs whose message is no longer in the queue (a broker
that was flushed, or a worker killed between taking a message and looking at it); fails chat answers whose deadline has
passed. Hourly: removes working folders a day after their run ended. Needs neither broker nor database to be alive: each
part of a pass that cannot be done is logged and tried again. Any number may run at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import redis
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import close_old_connections, connection
from django.db.models import Max
from django.db.models.functions import Now

from jobs import batch, study
from jobs.queue import QUEUE_OF, waiting_in
from jobs.stream_redis import client
from ml.errors import ColdframeError
from webapp.models import Outbox, Run
from webapp.services.answers import answers_expire
from webapp.services.exchange import exchange_expire
from webapp.services.run_leases import leases_expire
from webapp.services.runs import doorbell_again, doorbell_send
from webapp.services.uploads import uploads_ask_again

logger = logging.getLogger(__name__)

HEARTBEAT_KEY = "cf:reconciler"
PASSES_A_LEASE = 4
UNSENT_AFTER_S = 3.0
GARBAGE_EVERY_S, GARBAGE_AFTER_S = 3600.0, 24 * 3600.0
LONGEST_PAUSE_S = 60.0


def main() -> int:
    """Until SIGTERM or SIGINT. A pass that fails is tried again after a pause that grows to a minute."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    interval = settings.RUN_LEASE_S / PASSES_A_LEASE
    pause, last_garbage = interval, 0.0
    logger.info("reconciling every %.3g s", interval)
    while not stop.is_set():
        close_old_connections()
        is_well = one_pass()
        if time.monotonic() - last_garbage > GARBAGE_EVERY_S or not last_garbage:
            last_garbage = time.monotonic()
            _try("collecting garbage", collect_garbage)
            _try("expiring exports", lambda: _report("uploads and exports removed", exchange_expire()))
            _try("sweeping vectors", sweep_vectors)
            _try("sweeping studies", sweep_studies)
        pause = interval if is_well else min(pause * 2, LONGEST_PAUSE_S)
        stop.wait(pause)
    return 0


def one_pass() -> bool:
    """True when the database answered. What the broker's absence prevents is done by a later pass."""
    is_well = _try("expiring leases", lambda: _report("leases expired", leases_expire()))
    is_well = _try("sending doorbells", lambda: _report("doorbells sent", send_unsent())) and is_well
    _try("looking for lost messages", lambda: _report("lost messages sent again", send_lost()))
    _try("asking again for uploads", lambda: _report("uploads asked for again", uploads_ask_again()))
    _try("expiring answers", lambda: _report("answers expired", answers_expire()))
    _try("the heartbeat", beat)
    return is_well


def _try(what: str, action: Callable[[], object]) -> bool:
    try:
        action()
    except (DatabaseError, redis.RedisError, ColdframeError, OSError) as error:
        logger.warning("%s failed, will be tried again: %s: %s", what, type(error).__name__, error)
        if isinstance(error, DatabaseError):
            connection.close()
        return False
    return True


def _report(what: str, count: int) -> None:
    if count:
        logger.info("%s: %s", what, count)


def beat() -> None:
    ttl_s = max(30, int(settings.RUN_LEASE_S))
    client().set(HEARTBEAT_KEY, os.getpid(), ex=ttl_s)


def send_unsent() -> int:
    """Doorbells whose message never left; stops at the first that the broker does not take."""
    late = Outbox.objects.filter(
        sent_at=None, run__state=Run.State.QUEUED, created_at__lt=Now() - timedelta(seconds=UNSENT_AFTER_S)
    )
    n_sent, seen = 0, set()
    for pk, run_id in late.order_by("pk").values_list("pk", "run_id"):
        if run_id in seen:
            Outbox.objects.filter(pk=pk).update(sent_at=Now())
            continue
        seen.add(run_id)
        if not doorbell_send(outbox_id=pk):
            break
        n_sent += 1
    return n_sent


def send_lost() -> int:
    """Waiting runs that were announced a lease ago and have no message in their queue any more."""
    announced = (
        Run.objects.filter(state=Run.State.QUEUED, outbox__isnull=False)
        .exclude(outbox__sent_at=None)
        .annotate(last=Max("outbox__sent_at"))
        .filter(last__lt=Now() - timedelta(seconds=settings.RUN_LEASE_S))
        .values_list("pk", "kind")
    )
    runs = list(announced)
    in_line = {queue: waiting_in(queue) for queue in {QUEUE_OF[kind] for _, kind in runs}}
    lost = [pk for pk, kind in runs if pk not in in_line[QUEUE_OF[kind]]]
    return sum(doorbell_again(run_id=pk) for pk in lost)


def collect_garbage() -> None:
    """Working folders of runs that ended a day ago or are gone, and what crashes left in the storage."""
    from webapp import storage

    now = time.time()
    kept = set(
        Run.objects.exclude(
            state__in=Run.TERMINAL, finished_at__lt=Now() - timedelta(seconds=GARBAGE_AFTER_S)
        ).values_list("pk", flat=True)
    )
    n_removed = 0
    for folder in Path(settings.RUNS_DIR).iterdir():
        with contextlib.suppress(FileNotFoundError):
            is_old = now - folder.stat().st_mtime > GARBAGE_AFTER_S
            if folder.is_dir() and folder.name.isdigit() and int(folder.name) not in kept and is_old:
                study.keep(int(folder.name), folder)
                batch.keep(int(folder.name), folder)
                shutil.rmtree(folder)
                n_removed += 1
    n_removed += storage.remove_leftovers(older_than_s=GARBAGE_AFTER_S, now=now)
    _report("leftovers removed", n_removed)


def sweep_vectors() -> None:
    """Vectors of deleted and replaced documents; searches leave them out from the moment they are not live."""
    from jobs import vectors

    _report("vectors removed", vectors.sweep())


def sweep_studies() -> None:
    """Results that a study replaced when it was extended."""
    _report("study results removed", study.sweep(older_than_s=GARBAGE_AFTER_S, now=time.time()))
