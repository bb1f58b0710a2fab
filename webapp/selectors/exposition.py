"""What Prometheus is told: engines, the queue, answers, runs, parts. Read afresh for every scrape, by any web process.

Guarantees: labels name engines, base models, forms, kinds and states, never a team, a person or what they made; a part
that is down costs its own figures, not the scrape; counters grow as long as the process (an engine, or Redis) lives.
Keeps nothing itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from django.db import DatabaseError
from django.db.models import Count, Min
from django.utils import timezone
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from jobs import stream
from ml.errors import ColdframeError
from webapp.models import Run
from webapp.selectors.engines import queue
from webapp.selectors.health import health

logger = logging.getLogger(__name__)
OUTCOMES = ("done", "cancelled", "failed")
OF_ENGINE = ("engine", "base")
Beats = list[dict[str, Any]]
Rows = Iterable[tuple[Iterable[Any], Any]]


class _Everything(Collector):
    def collect(self) -> Iterable[Metric]:
        for read in (_parts, _engines, _queue, _runs):
            try:
                yield from list(read())
            except (ColdframeError, DatabaseError) as error:
                logger.warning("a scrape lacks %s: %s", read.__name__.strip("_"), error)


def exposition() -> bytes:
    """Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Everything())
    return generate_latest(registry)


def _gauge(name: str, text: str, labels: Iterable[str], rows: Rows) -> Metric:
    return _filled(GaugeMetricFamily(f"coldframe_{name}", text, labels=list(labels)), rows)


def _counter(name: str, text: str, labels: Iterable[str], rows: Rows) -> Metric:
    """Its samples' name ends in `_total`."""
    return _filled(CounterMetricFamily(f"coldframe_{name}", text, labels=list(labels)), rows)


def _filled(family: Any, rows: Rows) -> Metric:
    for values, value in rows:
        family.add_metric([str(one) for one in values], float(value))
    return family


def _parts() -> Iterator[Metric]:
    parts = health()["parts"]
    rows = [([name], part["state"] == "ready") for name, part in parts.items()]
    yield _gauge("part_ready", "1 when the part answers, as /healthz says.", ["part"], rows)


def _engines() -> Iterator[Metric]:
    beats = [{**beat, "labels": [beat.get(name, "") for name in ("id", "base")]} for beat in stream.engines()]
    yield from _state_of(beats)
    yield from _work_of(beats)
    yield from _memory_of(beats)


def _each(beats: Beats, key: str, *path: str) -> list[tuple[list[str], Any]]:
    """The beats that have the figure, with their labels."""
    found = []
    for beat in beats:
        value: Any = beat.get(key)
        for name in path:
            value = (value or {}).get(name)
        if value is not None:
            found.append((beat["labels"], len(value) if isinstance(value, list) else value))
    return found


def _state_of(beats: Beats) -> Iterator[Metric]:
    states = [(beat["labels"], beat.get("state", "ready")) for beat in beats]
    yield _gauge("engine_up", "1 when the engine takes requests.", OF_ENGINE, [(of, s == "ready") for of, s in states])
    yield _gauge("engine_state", "1 for the state that the engine is in.", (*OF_ENGINE, "state"),
                 [([*of, s], 1) for of, s in states])  # fmt: skip
    yield _gauge("engine_start_time_seconds", "When the engine's process began, in seconds since 1970.", OF_ENGINE,
                 _each(beats, "started_at"))  # fmt: skip
    yield _gauge("engine_slots", "Rows that fit into the engine's batches.", OF_ENGINE, _each(beats, "slots"))
    yield _gauge("engine_rows", "Rows in slots now.", OF_ENGINE, _each(beats, "rows"))
    yield _gauge("engine_queue", "Rows that the engine has taken and that wait for a slot or their adapter.", OF_ENGINE,
                 _each(beats, "queue"))  # fmt: skip


def _work_of(beats: Beats) -> Iterator[Metric]:
    step_s = [(of, ms / 1000) for of, ms in _each(beats, "step_ms")]
    yield _gauge("engine_step_seconds", "Median of the decoding steps of the last 5 s; 0 when there were none.",
                 OF_ENGINE, step_s)  # fmt: skip
    for name, text, key in (
        ("steps", "Passes of a model.", "steps"),
        ("tokens", "Tokens written.", "tokens"),
        ("decode_steps", "Passes that wrote tokens.", "decodes"),
        ("decode_seconds", "Time that these took.", "decode_s"),
    ):
        yield _counter(f"engine_{name}", text, OF_ENGINE, _each(beats, "totals", key))
    yield _counter("engine_requests", "Requests that the engine ended.", (*OF_ENGINE, "outcome"),
                   [([*beat["labels"], name], (beat.get("ended") or {}).get(name, 0)) for beat in beats
                    for name in OUTCOMES])  # fmt: skip


def _memory_of(beats: Beats) -> Iterator[Metric]:
    kept = "shared_prefixes"
    forms = [([*beat["labels"], form], sums) for beat in beats
             for form, sums in sorted((beat.get("resident_by_form") or {}).items())]  # fmt: skip
    for key, name, text in (("n", "adapters", "Adapters in memory, models of their own included."),
                            ("bytes", "bytes", "What these take beside the model.")):  # fmt: skip
        yield _gauge(f"engine_resident_{name}", text, (*OF_ENGINE, "form"), [(of, sums[key]) for of, sums in forms])
    yield _gauge("engine_prefix_bytes", "Keys and values kept of tasks' prefixes and of prompts' beginnings.",
                 OF_ENGINE, _each(beats, kept, "bytes"))  # fmt: skip
    looked = [(beat["labels"], beat[kept]) for beat in beats if beat.get(kept)]
    hits = [([*of, kind], n.get(key, 0)) for of, n in looked for kind, key in (("prompt", "hits"), ("task", "found"))]
    misses = [([*of, "prompt"], n.get("rows", 0) - n.get("hits", 0)) for of, n in looked]
    misses += [([*of, "task"], n.get("computed", 0)) for of, n in looked]
    labels = (*OF_ENGINE, "kind")
    yield _counter("engine_prefix_hits", "Rows whose task's prefix, or prompt's beginning, was kept.", labels, hits)
    yield _counter("engine_prefix_misses", "Rows for which it had to be computed.", labels, misses)
    yield _counter("engine_prefix_saved_tokens", "Tokens of prompts that were copied instead of read.", OF_ENGINE,
                   _each(beats, kept, "tokens"))  # fmt: skip


def _queue() -> Iterator[Metric]:
    with stream.redis_errors("look up how requests ended"):
        ended = stream.client().hgetall(stream.ENDED)
    found = queue()
    yield _gauge("queue_requests", "Requests that are not answered yet, in the queue or with an engine.", ["place"],
                 [(["waiting"], found["n_waiting"]), (["taken"], found["n_taken"])])  # fmt: skip
    yield _gauge(
        "queue_oldest_seconds", "For how long the oldest request waits for an engine.", (), [((), found["oldest_s"])]
    )
    yield _counter("answers", "Requests answered by all engines, by how they ended; since Redis was begun.",
                   ["outcome"], [([name], ended.get(name, 0)) for name in OUTCOMES])  # fmt: skip


def _runs() -> Iterator[Metric]:
    counts = {(kind, state): n for kind, state, n in Run.objects.order_by().values_list("kind", "state").annotate(
        n=Count("pk"))}  # fmt: skip
    rows = [([kind, state], counts.get((kind, state), 0)) for kind in Run.Kind.values for state in Run.State.values]
    yield _gauge("runs", "Runs by kind and state.", ["kind", "state"], rows)
    now = timezone.now()
    leased = Run.objects.filter(state__in=Run.ACTIVE, lease_until__gte=now).count()
    yield _gauge("run_leases", "Runs that a living worker holds.", (), [((), leased)])
    since = Run.objects.filter(state=Run.State.QUEUED).aggregate(first=Min("created_at"))["first"]
    age_s = max(0.0, (now - since).total_seconds()) if since else 0.0
    yield _gauge("runs_oldest_queued_seconds", "Age of the oldest run that waits for a worker.", (), [((), age_s)])
