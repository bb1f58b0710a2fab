"""What the pages of runs show: lists with reasons, a run's figures, curves, samples, log and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import F, QuerySet
from django.shortcuts import get_object_or_404

from jobs.queue import QUEUE_OF
from ml.specs import METHODS
from webapp.models import AdapterVersion, Run, RunEvent, Team
from webapp.selectors.metrics import HEADLINES, Measure, measure
from webapp.selectors.run_outcome import is_long, metric_named

POINTS = 1200
"""Points of a curve at most; longer runs are thinned out."""
CURVES = ("loss", "learning_rate", "grad_norm")
LOG_LINES = 400
EVALS = 300
SAMPLES = 5
EARLIER = 30
LOGGED = ("log", "phase", "warning", "started", "cell", "eval", "best", "checkpoint", "failed", "stopped", "finished",
          "requeued")  # fmt: skip


Evals = list[dict[str, Any]]
"""Evaluation events as the trainer sent them."""


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """A run in a list: the row and what is said about it."""

    run: Run
    waiting: str = ""
    technique: str = ""
    result: str = ""
    """`name@number` of the adapter it made."""
    result_pk: int = 0
    share: float = 0.0


def runs_of(team: Team) -> QuerySet[Run]:
    return Run.objects.for_team(team).select_related("created_by", "dataset_version__dataset", "team")


def run_of(team: Team, pk: int) -> Run:
    """The team's run; Http404 for any other."""
    return get_object_or_404(runs_of(team), pk=pk)


def earlier_trainings(team: Team) -> list[Run]:
    """The newest training runs, whose settings a new one may start from."""
    return list(runs_of(team).filter(kind=Run.Kind.TRAIN).order_by("-pk")[:EARLIER])


def live_rows(team: Team) -> list[RunRow]:
    """What runs and what waits, running ones first."""
    live = [*runs_of(team).filter(state__in=Run.ACTIVE).order_by("pk")]
    waiting = [*runs_of(team).filter(state=Run.State.QUEUED).order_by("pk")]
    return rows_of([*live, *waiting])


def rows_of(runs: list[Run]) -> list[RunRow]:
    made = {
        version.run_id: version
        for version in AdapterVersion.objects.filter(run__in=[r.pk for r in runs]).select_related("adapter")
    }
    rows = []
    for run in runs:
        version = made.get(run.pk)
        rows.append(
            RunRow(
                run=run,
                waiting=waiting_text(run) if run.state == Run.State.QUEUED else "",
                technique=str(run.spec.get("method", "")) if run.kind == Run.Kind.TRAIN else "",
                result=str(version) if version else "",
                result_pk=version.adapter_id if version else 0,
                share=share_of(run),
            )
        )
    return rows


def share_of(run: Run) -> float:
    """How much is done, 0 to 1."""
    if run.state == Run.State.SUCCEEDED:
        return 1.0
    done, total = run.progress.get("done") or 0, run.progress.get("total") or 0
    return min(1.0, done / total) if total else 0.0


def waiting_text(run: Run) -> str:
    """Why a run has not begun. Counts only: other teams are not named."""
    if run.waiting_for:
        return run.waiting_for
    kinds = [kind for kind, queue in QUEUE_OF.items() if queue == QUEUE_OF[run.kind]]
    same = Run.objects.filter(kind__in=kinds)
    n_ahead = same.filter(state=Run.State.QUEUED, pk__lt=run.pk).count()
    n_running = same.filter(state__in=Run.ACTIVE).count()
    text = f"Attempt {run.attempt + 1} of 3 waits. " if run.attempt else ""
    if not n_ahead and not n_running:
        return text + "Waiting for a worker to take it."
    parts = [f"{n_running} running" if n_running else "", f"{n_ahead} in line before it" if n_ahead else ""]
    return text + ", ".join(part for part in parts if part).capitalize() + "."


def curves(run: Run, *, after: int = 0) -> dict[str, list[float | int | None]]:
    """The figures of every step after `after`, thinned to `POINTS`."""
    metrics = run.metrics.filter(step__gt=after).order_by("step")
    stride = -(-metrics.count() // POINTS) or 1
    if stride > 1:
        metrics = metrics.annotate(phase=F("step") % stride).filter(phase=0)
    rows = list(metrics.values_list("step", "data"))
    return {
        "step": [step for step, _ in rows],
        **{name: [data.get(name) for _, data in rows] for name in CURVES},
    }


def evaluations(run: Run) -> Evals:
    """The evaluations in order of steps, of very long runs the newest; one that a resume repeated counts once."""
    events = run.events.filter(name="eval")
    plain = events.filter(data__subject="plain").values_list("data", flat=True)
    own = events.exclude(data__subject="plain").order_by("-pk").values_list("data", flat=True)[:EVALS]
    newest: dict[tuple[str, str, int], dict[str, Any]] = {}
    for data in [*plain, *reversed(own)]:
        newest[(data.get("subject", "adapter"), data.get("split", ""), data.get("step", 0))] = data
    return sorted(newest.values(), key=lambda data: data.get("step", 0))


def _headline(evals: Evals) -> str:
    names = [name for name in HEADLINES if any(name in (data.get("metrics") or {}) for data in evals)]
    return names[0] if names else ""


def eval_curve(found: Evals) -> dict[str, Any]:
    """The headline metric and the loss on the validation rows over the steps, and the untouched model's value."""
    evals = [data for data in found if data.get("split") == "validation"]
    name = _headline(evals)
    own = [data for data in evals if data.get("subject") != "plain"]
    plain = [data for data in evals if data.get("subject") == "plain"]
    return {
        "name": name,
        "label": HEADLINES.get(name, ""),
        "step": [data.get("step", 0) for data in own],
        "value": [(data.get("metrics") or {}).get(name) for data in own],
        "loss": [(data.get("metrics") or {}).get("loss") for data in own],
        "plain": (plain[-1].get("metrics") or {}).get(name) if plain and name else None,
        "n_rows": own[-1].get("n_rows") if own else None,
    }


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The newest measured figures of a run, and the untouched model's on the same rows."""

    own: Measure | None
    plain: Measure | None
    split: str
    step: int


def _measure_of(data: dict[str, Any]) -> Measure | None:
    """The headline of an evaluation event."""
    block = {**(data.get("metrics") or {}), "intervals": data.get("intervals"), "n_rows": data.get("n_rows")}
    return measure({"event": block}, "event")


def scores(evals: Evals) -> Scores | None:
    """On the test rows when they were measured, else on the validation rows of the last look."""
    for split in ("test", "validation"):
        here = [data for data in evals if data.get("split") == split]
        own = [data for data in here if data.get("subject") != "plain"]
        if own:
            plain = [data for data in here if data.get("subject") == "plain"]
            return Scores(
                own=_measure_of(own[-1]), plain=_measure_of(plain[-1]) if plain else None,
                split=split, step=own[-1].get("step", 0),
            )  # fmt: skip
    return None


def samples(evals: Evals) -> dict[str, Any]:
    """The worst and the best answers of the newest evaluation that kept any."""
    kept = [d for d in evals if d.get("subject") != "plain" and d.get("samples")]
    if not kept:
        return {}
    found = [{**sample, "is_long": is_long(sample)} for sample in kept[-1]["samples"]]
    rows = sorted(found, key=lambda sample: sample.get("loss") or 0.0)
    picks_label = "accuracy" in (kept[-1].get("metrics") or {"accuracy"})
    best = [row for row in rows if row.get("correct") is not False or not picks_label][:SAMPLES]
    worst = [row for row in reversed(rows) if row not in best][:SAMPLES]
    return {"step": kept[-1].get("step"), "split": kept[-1].get("split"), "best": best, "worst": worst}


def checkpoints(run: Run) -> list[dict[str, Any]]:
    """The newest first."""
    found: dict[int, dict[str, Any]] = {}
    for data, made in run.events.filter(name="checkpoint").values_list("data", "created_at"):
        found[data.get("step", 0)] = {**data, "made": made}
    return sorted(found.values(), key=lambda data: -data.get("step", 0))[:20]


def log_lines(run: Run) -> list[tuple[Any, str]]:
    """(time, text), the newest last."""
    events = run.events.filter(name__in=LOGGED).order_by("-pk")[:LOG_LINES]
    lines = [(event.created_at, text) for event in reversed(events) for text in _log_texts(event)]
    return lines[-LOG_LINES:]


def _log_texts(event: RunEvent) -> list[str]:
    data = event.data
    if event.name == "log":
        return [str(line) for line in data.get("lines", [])]
    if event.name == "eval":
        shown = ", ".join(f"{k} {v:.3f}" for k, v in (data.get("metrics") or {}).items() if isinstance(v, (int, float)))
        who = "untouched model" if data.get("subject") == "plain" else "adapter"
        return [f"step {data.get('step')}: {who} on {data.get('n_rows')} {data.get('split')} rows: {shown}"]
    if event.name == "checkpoint":
        return [f"step {data.get('step')}: checkpoint written"]
    if event.name == "failed":
        return [f"failed: {(data.get('error') or {}).get('message', '')}"]
    if event.name == "started":
        return [
            f"started: {data.get('n_steps')} steps on {data.get('device')}, {data.get('n_trainable')} numbers train"
        ]
    if event.name == "cell":
        value = f", {data['value']:.3f}" if isinstance(data.get("value"), (int, float)) else ""
        return [f"{data.get('key')}: {str(data.get('state', '')).replace('_', ' ')}{value}"]
    if event.name == "warning":
        return [f"warning: {data.get('text', '')}"]
    if event.name == "best" and isinstance(data.get("value"), (int, float)):
        metric = metric_named(str(data.get("metric", "")))
        return [f"step {data.get('step')}: the best look so far, {metric.label.lower()} {metric.text(data['value'])}"]
    if event.name == "finished" and data.get("kept_step"):
        return [f"finished with the weights of step {data['kept_step']}"]
    texts = {"stopped": f"stopped at step {data.get('step')}", "finished": "finished"}
    return [texts.get(event.name) or str(data.get("text", ""))]


def predicted_bytes(run: Run) -> int:
    """Memory that the plan counted on before the first step; 0 when there was none."""
    data = run.events.filter(name="plan").order_by("-pk").values_list("data", flat=True).first()
    return int((data or {}).get("total") or 0)


def memory_ratio(run: Run) -> str:
    """Predicted ÷ measured peak of a run that is over, with two digits; "" when one of them is not known."""
    predicted, peak = predicted_bytes(run), int(run.result.get("peak_bytes") or 0)
    return f"{predicted / peak:.2f}" if predicted and peak else ""


def method_of(run: Run) -> Any:
    return METHODS.get(str(run.spec.get("method", "")))


def last_event_id(run: Run) -> int:
    return run.events.order_by("-pk").values_list("pk", flat=True).first() or 0
