"""The leaderboard of a study: from its cells and their answered rows to what pages and reports show.

Pure: no model, no files, no clock; the same cells give the same board, in whatever order they come. Half-filled studies
have a board of what is there. A cell that is said to be done but has no rows counts as waiting: no figure without its
rows. Cells that the spec does not name are left out. Everything in it is plain JSON, with null for what is unknown.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ml.evaluate.answers import Answered
from ml.events import finite
from ml.specs.measures import EVALUATION_METRICS
from ml.specs.study import StudySpec
from ml.study.cells import Cell, cells_of
from ml.study.draws import Drawn, aligned, draw, standing
from ml.study.entries import Cells, entry_of, rank, settle
from ml.study.findings import digest, findings
from ml.study.guess import guess
from ml.study.pairs import Side, compare_all, decide, differences
from ml.study.sizes import sizes_of

Rows = Mapping[str, Sequence[Answered]]
"""By the key of their cell."""


def board(spec: StudySpec, about: Mapping[str, Any], cells: Sequence[Mapping[str, Any]], rows: Rows) -> dict[str, Any]:
    """What board.json holds. `about` is study.json as far as it is known; `cells` those that are kept.

    Raises DataError when the cells have no test row in common.
    """
    planned = cells_of(spec)
    keys = {cell.key for cell in planned}
    kept: Cells = {str(cell["key"]): cell for cell in cells if cell["key"] in keys}
    answered = aligned({
        key: rows[key] for key, cell in kept.items() if cell["state"] == "done" and rows.get(key)
    })  # fmt: skip
    drawn = draw(spec.metric, answered)
    found = {
        "metric": spec.metric, "metric_label": EVALUATION_METRICS[spec.metric].label, "n_rows": drawn.n_rows,
        "seeds": list(spec.seeds), **_counts(planned, kept, drawn), **_places(spec, planned, kept, answered, drawn),
        "failed": _listed(planned, kept, "failed", "error"), "guess": guess(spec.metric, about, answered),
        "left_out": _listed(planned, kept, "left_out", "reason"), "curves": _of_first(spec, kept, "curve"),
        "tries": _of_first(spec, kept, "tries"),
    }  # fmt: skip
    found = finite(found)
    whole = {**found, "findings": findings(found, about), "digest": digest(found)}
    return dict(finite(whole))


def _counts(planned: Sequence[Cell], kept: Cells, drawn: Drawn) -> dict[str, Any]:
    """Every planned cell counts once, by where it stands."""
    states: Counter[str] = Counter()
    for cell in planned:
        state = str(kept[cell.key]["state"]) if cell.key in kept else "waiting"
        states["waiting" if state == "done" and cell.key not in drawn.draws else state] += 1
    counts = {state: states[state] for state in ("done", "failed", "left_out", "waiting")}
    return {"complete": not counts["waiting"], "n_cells": {**counts, "total": len(planned)}}


def _places(spec: StudySpec, planned: Sequence[Cell], kept: Cells, answered: Rows, drawn: Drawn) -> dict[str, Any]:
    """The ranked entries, their pairs, and what depends on who is where."""
    whole = {name: [cell for cell in planned if cell.technique == name and cell.share >= 1] for name in spec.techniques}
    done = {name: [cell.key for cell in own if cell.key in drawn.draws] for name, own in whole.items()}
    ranked = rank([entry_of(name, whole[name], kept, drawn) for name in spec.techniques if done[name]])
    standings = {entry["technique"]: standing(drawn, entry["technique"], done[entry["technique"]]) for entry in ranked}
    sides = [Side(name=name, standing=one, first=answered[done[name][0]]) for name, one in standings.items()]
    pairs = compare_all(sides, metric=spec.metric, n_rows=drawn.n_rows)
    settle(ranked, lambda head: decide(pairs, head))
    _add_spreads(ranked, drawn)
    asked = next((entry["technique"] for entry in ranked if entry["kind"] == "prompt"), None)
    return {
        "entries": ranked, "pairs": pairs, "best": ranked[0]["technique"] if ranked else None,
        "take": next((entry["technique"] for entry in ranked if entry["is_take"]), None), "best_untrained": asked,
        "sizes": sizes_of(planned, kept, drawn, first_seed=spec.seeds[0], asked=standings.get(asked or "")),
    }  # fmt: skip


def _add_spreads(entries: Sequence[dict[str, Any]], drawn: Drawn) -> None:
    """`spread_p`: how likely rows alone set a technique's best and worst seed so far apart, for all pairs of seeds that
    could have been them; None with one seed."""
    extremes = {}
    for entry in entries:
        done = sorted((seed for seed in entry["per_seed"] if seed["value"] is not None), key=lambda seed: seed["value"])
        if len(done) > 1:
            ends = [standing(drawn, seed["key"], [seed["key"]]) for seed in (done[-1], done[0])]
            extremes[entry["technique"]] = (ends[0], ends[1], math.comb(len(done), 2))
    found = differences([(high, low) for high, low, _ in extremes.values()], drawn.n_rows)
    chances = {name: min(1.0, n * one["p"]) for (name, (_, _, n)), one in zip(extremes.items(), found, strict=True)}
    for entry in entries:
        entry["spread_p"] = chances.get(entry["technique"])


def _listed(planned: Sequence[Cell], kept: Cells, state: str, why: str) -> list[dict[str, Any]]:
    return [
        {**{name: kept[cell.key][name] for name in ("key", "technique", "label", "glyph", "seed", "share")},
         why: kept[cell.key].get(why)}
        for cell in planned if cell.key in kept and kept[cell.key]["state"] == state
    ]  # fmt: skip


def _of_first(spec: StudySpec, kept: Cells, name: str) -> dict[str, Any]:
    """What the first seed's cell on all rows keeps under `name`, of the techniques that have it."""
    firsts = {technique: Cell(technique=technique, seed=spec.seeds[0]).key for technique in spec.techniques}
    return {technique: list(kept[key][name]) for technique, key in firsts.items() if kept.get(key, {}).get(name)}
