"""Reads of the engines: each with its rows, what it keeps in memory and its last minutes, as one team may see them.

Guarantees: of another team's work only the form and the amount are told, never a name, a text or a length; Redis down
means no engines to show, never an error page.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from django.conf import settings
from django.urls import reverse

from jobs import stream
from ml.errors import ColdframeError
from ml.specs import METHODS
from webapp.models import AdapterVersion, Team

logger = logging.getLogger(__name__)
FORM_GLYPHS = {"plain": "t-zero", **{method.form: method.glyph for method in reversed(METHODS.values())}}
STATES = {
    "ready": ("running", "answering", ""),
    "starting": ("wait", "starting", "It answers in some seconds."),
    "loading the model": ("wait", "loading its model", "It answers in some seconds."),
    "waiting for the model": ("wait", "waiting for its model",
                              "The folder of its model is not there yet. The starter models are fetched by themselves; "
                              "another one is put into the models folder of the server."),
    "waiting for vLLM": ("wait", "waiting for vLLM",
                         "The server that holds its model does not answer; the engine's log says what it sees."),
    "draining": ("wait", "draining", "It takes no new requests, finishes those that it has, and then ends."),
    "drained": ("old", "drained", ""),
    "stopping": ("wait", "stopping", "Another engine goes on with its answers where it stops."),
}  # fmt: skip
"""Shape, word, and what follows from it."""
DOING = {"prefill": "reads its prompt", "decode": "writes"}
N_BARS = 60
Beat = dict[str, Any]
Shares = Sequence[tuple[str, float]]


def engines() -> list[Beat]:
    """Heartbeats of the live engines; none when Redis does not answer."""
    try:
        return stream.engines()
    except ColdframeError as error:
        logger.warning("engines cannot be listed: %s", error)
        return []


Drains = dict[tuple[str, str], stream.Drain]


def drains() -> Drains:
    """Who keeps which engines out, by base model and host; empty when Redis does not answer."""
    try:
        return {(drain.base, drain.host): drain for drain in stream.drains()}
    except ColdframeError as error:
        logger.warning("drained engines cannot be listed: %s", error)
        return {}


def queue() -> dict[str, Any]:
    """Requests that no engine has taken, those taken and not answered, and how long the oldest waits; of all base
    models together. Raises UnavailableError."""
    with stream.redis_errors("look into the queue"):
        found = [_queue_of(stream.requests_key(base)) for base in settings.BASE_MODELS]
    return {
        "n_waiting": sum(n_waiting for n_waiting, _, _ in found), "n_taken": sum(n_taken for _, n_taken, _ in found),
        "oldest_s": max(age_s for _, _, age_s in found),
    }  # fmt: skip


def _queue_of(key: str) -> tuple[int, int, float]:
    client = stream.client()
    n_requests = client.xlen(key)
    groups = client.xinfo_groups(key) if n_requests else []
    group = next((found for found in groups if found["name"] == stream.GROUP), {})
    oldest = client.xrange(key, min=f"({group.get('last-delivered-id', '0-0')}", count=1)
    n_taken = group.get("pending", 0)
    age_s = max(0.0, time.time() - int(oldest[0][0].partition("-")[0]) / 1000) if oldest else 0.0
    return max(0, n_requests - n_taken), n_taken, age_s


def overview(*, team: Team) -> dict[str, Any]:
    """Everything on the page of the engines."""
    beats, held = engines(), drains()
    panes = engine_panes(team=team, beats=beats, held=held)
    here = {(beat.get("base"), beat.get("host")) for beat in beats}
    try:
        waiting = queue()
    except ColdframeError as error:
        logger.warning("the queue cannot be seen: %s", error)
        waiting = None
    return {
        "panes": panes, "queue": waiting, "n_answering": sum(pane["state"]["name"] == "ready" for pane in panes),
        "absent": [_drain(drain, team) for place, drain in held.items() if place not in here],
    }  # fmt: skip


def engine_panes(*, team: Team, beats: list[Beat], held: Drains | None = None) -> list[dict[str, Any]]:
    """Each engine with its live rows and resident tasks, as this team may see them; in an order that stays. `held`:
    who is drained, where that was asked already."""
    artifacts = {
        task.get("artifact") for beat in beats for task in (*(beat.get("resident") or ()), *(beat.get("rows") or ()))
    }
    versions = AdapterVersion.objects.for_team(team).filter(artifact__in=artifacts - {None, ""})
    own = {version.artifact: version for version in versions.select_related("adapter")}
    ordered = sorted(beats, key=lambda beat: (str(beat.get("base")), beat.get("started_at") or 0))
    held = drains() if held is None else held
    return [
        {**_pane(beat, team, own), "drain": _drain(held.get((str(beat.get("base")), str(beat.get("host")))), team)}
        for beat in ordered
    ]


def _drain(drain: stream.Drain | None, team: Team) -> dict[str, Any] | None:
    """Who and since when; an admin of another team is not named."""
    if drain is None:
        return None
    by = drain.by if drain.team_id == team.pk else "an admin of another team"
    return {"base": drain.base, "host": drain.host, "by": by, "at": datetime.fromtimestamp(drain.at, UTC)}


def _pane(beat: Beat, team: Team, own: dict[str, AdapterVersion]) -> dict[str, Any]:
    given = beat.get("rows") or []
    since, n_slots = beat.get("started_at"), beat.get("slots") or 0
    rows = _rows(given, team, own)
    state = _state(beat)
    return {
        "beat": beat, "state": state, "is_loaded": state["name"] == "ready" or bool(beat.get("totals")),
        "rows": rows, "n_slots": n_slots,
        "scale": max((row["capacity"] for row in rows if row["is_own"]), default=0),
        "slots": _slots(given, n_slots), "doing": _doing(given), "prefixes": _prefixes(beat),
        "since": datetime.fromtimestamp(since, UTC) if since else None,
        "past": past(beat), **_resident(beat, own),
    }  # fmt: skip


def _state(beat: Beat) -> dict[str, str]:
    name = str(beat.get("state") or "ready")
    shape, word, text = STATES.get(name, ("wait", name, ""))
    return {"name": name, "shape": shape, "word": word, "text": text}


def _doing(rows: list[dict[str, Any]]) -> str:
    """`3 write, 1 reads its prompt`; of all teams' rows together."""
    n_reading = sum(row.get("state") == "prefill" for row in rows)
    n_writing = len(rows) - n_reading
    said = [f"{n_writing} write{'s' if n_writing == 1 else ''}"] if n_writing else []
    if n_reading:
        said.append(f"{n_reading} read{'s its prompt' if n_reading == 1 else ' their prompts'}")
    return ", ".join(said)


def _prefixes(beat: Beat) -> dict[str, Any] | None:
    """How often rows found their beginning; None of an engine that does not say."""
    seen = beat.get("shared_prefixes")
    if not seen:
        return None
    n_rows, n_hits = seen.get("rows", 0), seen.get("hits", 0)
    return {**seen, "share": 100 * n_hits / n_rows if n_rows else None}


def _resident(beat: Beat, own: dict[str, AdapterVersion]) -> dict[str, Any]:
    """Tasks in memory, the largest first; those of other teams as a number."""
    ours, foreign = [], []
    for task in beat.get("resident") or []:
        # The engine's label may be what another team calls the same files.
        version = own.get(task.get("artifact", ""))
        if version is None:
            foreign.append(task)
            continue
        form = task.get("form") or "plain"
        ours.append({**task, "label": str(version), "url": _url(version), "glyph": FORM_GLYPHS.get(form, "t-zero")})
    most = max((task.get("bytes") or 0 for task in ours), default=0) or 1
    ours = [{**task, "share": 100 * (task.get("bytes") or 0) / most} for task in ours]
    memory = memory_of(beat)
    return {
        **memory, "resident": sorted(ours, key=lambda task: -(task.get("bytes") or 0)),
        "n_unlisted": memory["n_resident"] - len(ours) - len(foreign),
        "n_foreign": len(foreign), "foreign_bytes": sum(task.get("bytes") or 0 for task in foreign),
    }  # fmt: skip


def memory_of(beat: Beat) -> dict[str, int]:
    """How many tasks an engine keeps, of all teams, and what they and the prefixes take beside the model."""
    sums, listed = (beat.get("resident_by_form") or {}).values(), beat.get("resident") or []
    prefix_bytes = (beat.get("shared_prefixes") or {}).get("bytes", 0)
    return {
        "n_resident": max(sum(form["n"] for form in sums), len(listed)),
        "resident_bytes": prefix_bytes
        + (sum(form["bytes"] for form in sums) or sum(task.get("bytes") or 0 for task in listed)),
    }


def in_short(beat: Beat) -> dict[str, Any]:
    """An engine's figures for the batch panel of a chat."""
    prefixes = _prefixes(beat)
    return {
        "engine": beat.get("id"), "step": beat.get("step"), "step_ms": beat.get("step_ms"), "slots": beat.get("slots"),
        "tokens_per_s": beat.get("tokens_per_s"), "queue": beat.get("queue"), **memory_of(beat),
        "prefix_share": prefixes["share"] if prefixes else None,
    }  # fmt: skip


def _url(version: AdapterVersion) -> str:
    return f"{reverse('adapters:detail', args=[version.adapter_id])}?version={version.number}"


def _slots(rows: list[dict[str, Any]], n_slots: int) -> list[dict[str, Any]]:
    """Places of the slots on a bar of 100 per cent."""
    live = {row.get("slot", place): row.get("state") for place, row in enumerate(rows)}
    width = 100 / n_slots if n_slots else 100
    gap = min(0.16 * width, 0.5)
    kinds = {"prefill": "f-frostfill"}
    return [
        {"x": f"{i * width + gap / 2:.2f}", "width": f"{width - gap:.2f}",
         "kind": kinds.get(live[i] or "", "f-grown") if i in live else "free"}
        for i in range(min(n_slots, 256))
    ]  # fmt: skip


def _rows(given: list[dict[str, Any]], team: Team, own: dict[str, AdapterVersion]) -> list[dict[str, Any]]:
    """Live rows, this team's with bars on the scale of its longest; another team's keep nothing but their form."""
    scale = max((row.get("capacity") or 1 for row in given if row.get("team_id") == team.pk), default=1)
    rows = []
    for place, row in enumerate(given):
        form = row.get("form") or "plain"
        is_own = row.get("team_id") == team.pk
        known = {"is_own": is_own, "form": form, "glyph": FORM_GLYPHS.get(form, "t-zero"),
                 "slot": row.get("slot", place)}  # fmt: skip
        rows.append({**known, **_own_row(row, scale, own)} if is_own else known)
    return rows


def _own_row(row: dict[str, Any], scale: int, own: dict[str, AdapterVersion]) -> dict[str, Any]:
    capacity = row.get("capacity") or 1
    position, n_written = min(row.get("position") or 0, capacity), row.get("n_tokens") or 0
    prefix = min(row.get("prefix_tokens") or 0, position)
    written = min(n_written, position - prefix)
    parts = [("f-frost", prefix), ("f-frostfill", position - prefix - written), ("f-grown", written),
             ("f-soft", capacity - position)]  # fmt: skip
    version, seconds = own.get(row.get("artifact") or ""), row.get("seconds")
    return {
        "label": row.get("label") or "plain model", "url": _url(version) if version else "",
        "doing": DOING.get(row.get("state") or "", row.get("state") or ""),
        "position": position, "prefix": prefix, "prompt": position - prefix - written, "written": written,
        "capacity": capacity, "bars": _side_by_side(parts, scale), "seconds": seconds,
        "speed": n_written / seconds if seconds and n_written else None,
    }  # fmt: skip


def _side_by_side(parts: Shares, scale: float) -> list[dict[str, str]]:
    """Rectangles from left to right, in per cent of `scale`; empty ones are left out."""
    bars, at = [], 0.0
    for kind, n in parts:
        if n > 0:
            bars.append({"kind": kind, "x": f"{100 * at / scale:.2f}", "width": f"{100 * n / scale:.2f}"})
            at += n
    return bars


def past(beat: Beat) -> list[dict[str, Any]]:
    """The last ten minutes as bars, the latest at the right end: tokens a second, rows, step time. Empty when nobody
    asked."""
    try:
        with stream.redis_errors("look up an engine's past"):
            kept = stream.client().lrange(stream.past_key(str(beat.get("id"))), 0, -1)
    except ColdframeError as error:
        logger.warning("an engine's past cannot be looked up: %s", error)
        return []
    samples = [json.loads(sample) for sample in kept]
    wanted = (("Tokens a second", "tokens_per_s", "grown"), ("Rows in a step", "rows", "frost"),
              ("Step, ms", "step_ms", "ink"))  # fmt: skip
    courses = [_course(label, [sample.get(key) or 0 for sample in samples], kind) for label, key, kind in wanted]
    return courses if any(course["most"] for course in courses) else []


def _course(label: str, values: list[float], kind: str) -> dict[str, Any]:
    each = stream.N_SAMPLES // N_BARS
    groups = [values[max(0, end - each) : end] for end in range(len(values), 0, -each)]
    means = [fmean(group) for group in groups]
    most, width = max(values, default=0), 100 / N_BARS
    bars = [
        {"x": f"{100 - width * (place + 0.92):.2f}", "width": f"{width * 0.84:.2f}",
         "y": f"{100 - 100 * mean / most:.1f}", "height": f"{100 * mean / most:.1f}"}
        for place, mean in enumerate(means) if mean
    ]  # fmt: skip
    return {"label": label, "kind": kind, "most": most, "now": values[-1] if values else 0, "bars": bars}
