"""A row of the leaderboard: a technique's quality over its seeds beside what it costs; who is tied, and who to take.

Means are over the seeds that are done. Values that are no finite number count as unknown. Cheapest to serve means, in
this order: no model of its own, clearly fewer tokens a request, fewer bytes to keep, fewer trained numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml.evaluate.metrics import better
from ml.specs.forms import GROUPS
from ml.specs.study import TECHNIQUES
from ml.specs.table import METHODS
from ml.study.cells import Cell
from ml.study.draws import Drawn, interval, standing

Entry = dict[str, Any]
Cells = Mapping[str, Mapping[str, Any]]
"""By key, of those that are kept."""
TOKENS = ("tokens_in", "tokens_prefix", "tokens_out")
MEANS = (*TOKENS, "latency_p50_ms", "latency_p95_ms", "first_token_p50_ms", "train_s", "measure_s")


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def known(cells: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [found for cell in cells if (found := number(cell.get(name))) is not None]


def mean(cells: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = known(cells, name)
    return sum(values) / len(values) if values else None


def form_of(technique: str) -> str:
    """The serving form of what a technique trains; "" for one that asks in words."""
    return METHODS[technique].form if technique in METHODS else ""


def has_own_model(technique: str) -> bool:
    """Whether serving it takes a model beside the shared one."""
    return form_of(technique) == "own_backbone"


def group_of(technique: str) -> str:
    """Title of the group of forms that it belongs to; "" for one that asks in words."""
    return next((group.title for group in GROUPS if form_of(technique) in group.forms), "")


def entry_of(name: str, planned: Sequence[Cell], cells: Cells, drawn: Drawn) -> Entry:
    """`planned`: the technique's cells on all training rows, of which at least one has draws."""
    done = [cells[cell.key] for cell in planned if cell.key in drawn.draws]
    found = standing(drawn, name, [cell["key"] for cell in done])
    best, row = best_seed(done), TECHNIQUES[name]
    seeds = [_seed(cell, cells.get(cell.key), drawn) for cell in planned]
    values = [seed["value"] for seed in seeds if seed["value"] is not None]
    return {
        "technique": name, "label": row.label, "glyph": row.glyph, "kind": row.kind, "form": form_of(name),
        "has_own_model": has_own_model(name), "value": found.value,
        "interval": interval(drawn, found, n_seeds=len(done)), "per_seed": seeds,
        "spread": max(values) - min(values) if len(values) > 1 else None, "n_seeds_done": len(done),
        "n_seeds": len(planned), **{figure: mean(done, figure) for figure in MEANS},
        "n_trainable": number(best.get("n_trainable")), "artifact_bytes": number(best.get("artifact_bytes")),
        "search_s": sum(known(done, "search_s")), "peak_bytes": max(known(done, "peak_bytes"), default=None),
        "learning_rate": number(best.get("learning_rate")), "steps": number(best.get("steps")),
        "valid_value": number(best.get("valid_value")), "n_train_rows": number(best.get("n_train_rows")),
        "best_key": best["key"], "artifact": str(best.get("artifact") or ""),
    }  # fmt: skip


def _seed(cell: Cell, kept: Mapping[str, Any] | None, drawn: Drawn) -> dict[str, Any]:
    found: dict[str, Any] = {"seed": cell.seed, "key": cell.key, "value": None, "interval": None}
    if cell.key not in drawn.draws:
        state = str(kept["state"]) if kept else "waiting"
        return {**found, "state": "waiting" if state == "done" else state}
    one = standing(drawn, cell.key, [cell.key])
    return {**found, "value": one.value, "interval": interval(drawn, one, n_seeds=1), "state": "done"}


def best_seed(done: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The cell that did best on the validation rows; the first one where nothing tells them apart."""
    best = done[0]
    for cell in done[1:]:
        if better(_valid(cell), _valid(best)):
            best = cell
    return best


def _valid(cell: Mapping[str, Any]) -> dict[str, float]:
    names = {"accuracy": "valid_value", "loss": "valid_loss"}
    return {name: found for name, key in names.items() if (found := number(cell.get(key))) is not None}


def tokens(entry: Mapping[str, Any]) -> float | None:
    """Tokens a request: read, virtual and written together."""
    values = known([{"n": entry.get(name)} for name in TOKENS], "n")
    return sum(values) if values else None


def cost_to_serve(entry: Mapping[str, Any]) -> tuple[float, ...]:
    """Sorts the cheapest to serve first; what is unknown comes last. Tokens are those that each request reads and
    writes, virtual ones left out, since they are kept; in steps of a third, so that trifles do not decide."""
    read = known([{"n": entry.get(name)} for name in ("tokens_in", "tokens_out")], "n")
    step = round(math.log(max(1.0, sum(read)), 4 / 3)) if read else None
    figures = (step, entry["artifact_bytes"], entry["n_trainable"])
    return (float(entry["has_own_model"]), *(math.inf if figure is None else figure for figure in figures))


def rank(entries: Sequence[Entry]) -> list[Entry]:
    """Best first; of equal ones the cheapest to serve."""
    return sorted(entries, key=lambda entry: (-round(entry["value"], 12), cost_to_serve(entry)))


def settle(ranked: Sequence[Entry], next_head: Callable[[str], str | None]) -> None:
    """Gives every entry its place, its group, whether it is tied with the best, and whether to take it.

    `next_head`: the first technique that is below a group's best for certain; it is the best of the next group.
    """
    heads = [ranked[0]["technique"]] if ranked else []
    while heads and (below := next_head(heads[-1])) is not None:
        heads.append(below)
    group = 0
    for place, entry in enumerate(ranked, start=1):
        group += entry["technique"] in heads
        entry |= {"place": place, "group": group, "is_tied": group == 1 and place > 1, "is_take": False}
    if ranked:
        min((entry for entry in ranked if entry["group"] == 1), key=cost_to_serve)["is_take"] = True
    _mark_fronts(ranked)


def _mark_fronts(entries: Sequence[Entry]) -> None:
    """On a front: nothing else is both better and cheaper."""
    costs: dict[str, Callable[[Entry], float | None]] = {
        "latency": lambda entry: entry["latency_p50_ms"],
        "size": lambda entry: entry["artifact_bytes"],
        "training": lambda entry: 0.0 if entry["kind"] == "prompt" else entry["train_s"],
        "tokens": tokens,
    }
    for entry in entries:
        entry["front"] = {name: _is_on_front(entry, entries, cost) for name, cost in costs.items()}


def _is_on_front(entry: Entry, entries: Sequence[Entry], cost_of: Callable[[Entry], float | None]) -> bool:
    mine = cost_of(entry)
    if mine is None:
        return False
    for other in entries:
        cost = cost_of(other)
        if cost is None or other is entry:
            continue
        gain, saving = other["value"] - entry["value"], mine - cost
        if gain >= 0 and saving >= 0 and (gain > 0 or saving > 0):
            return False
    return True
