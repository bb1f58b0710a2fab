"""Findings about what the figures are worth: rows and seeds, the search for learning rates, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml.evaluate.metrics import wilson
from ml.specs.study import TECHNIQUES
from ml.specs.table import METHODS
from ml.study import words
from ml.study.facts import Entry, Facts, Finding, finding, name, says, with_value
from ml.study.pairs import LEVEL

UNSTEADY = 0.05
"""Spread over seeds from which one training says little."""
FEW_ROWS = 100
_MOST_SHOWN = 5


def _rows(facts: Facts) -> list[Finding]:
    """From how many training rows on training is above the best that is only asked."""
    asked = facts.by_name.get(facts.board["best_untrained"])
    reached, missed = [], []
    for technique, points in facts.board["sizes"].items():
        if asked is None or technique not in METHODS:
            continue
        where = _from_where(points)
        label = words.name(TECHNIQUES[technique].label)
        if where is None:
            missed.append(label)
        else:
            reached.append((points[where]["n_train_rows"] or 0, label, points[where]))
    if asked is None or not (reached or missed):
        return []
    if not reached:
        text = f"No share of the rows that was measured puts {words.listed(missed)} above {name(asked)} for certain."
        return [finding("rows", "open", f"Not enough rows to beat {name(asked)}.", text)]
    reached.sort(key=lambda found: (found[0], found[1]))
    shown = [f"{label} from {n:,} rows ({words.percent(point['value'])})" for n, label, point in reached[:_MOST_SHOWN]]
    text = f"{'; '.join(shown)}. {with_value(asked)} with all rows to choose from."
    if missed:
        text += f" Not above it with any share: {words.listed(missed)}."
    return [finding("rows", "certain", f"Training beats {name(asked)} from {reached[0][0]:,} rows on.", text)]


def _from_where(points: Sequence[Mapping[str, Any]]) -> int | None:
    """Place of the first point from which all are above for certain."""
    above = [bool(p["over_asked"] and p["over_asked"]["is_certain"] and p["over_asked"]["difference"] > 0)
             for p in points]  # fmt: skip
    for place in range(len(points)):
        if all(above[place:]):
            return place
    return None


def _grows(facts: Facts) -> list[Finding]:
    """Whether the best one that was measured on several shares still grows."""
    technique = next((e["technique"] for e in facts.trained if e["technique"] in facts.board["sizes"]), None)
    if technique is None:
        return []
    before, last = facts.board["sizes"][technique][-2:]
    gain, entry = last["over_before"], facts.by_name[technique]
    text = (
        f"With {last['n_train_rows'] or 0:,} rows instead of {before['n_train_rows'] or 0:,} {says(entry, 'reaches')} "
        f"{words.percent(last['value'])} instead of {words.percent(before['value'])}"
    )
    if gain["is_certain"] and gain["difference"] > 0:
        text += f", {words.points(gain['difference'])} {words.bounds([gain['low'], gain['high']])} more."
        return [finding("grows", "certain", "More training rows would help.", text)]
    return [finding("grows", "tied", "More training rows may not help.", f"{text}: that may be chance.")]


def _seeds(facts: Facts) -> list[Finding]:
    by_chance = [entry for entry in facts.entries if TECHNIQUES[entry["technique"]].has_chance]
    several = [entry for entry in by_chance if entry["spread"] is not None]
    if by_chance and not several:
        text = "How much a seed's luck moves the values is not in the intervals; two more seeds would say."
        return [finding("seeds", "open", "One seed each.", text)]
    wide = sorted((e for e in several if round(e["spread"], 9) > UNSTEADY), key=lambda e: -e["spread"])
    shaky = [entry for entry in wide if entry["spread_p"] < LEVEL]
    if shaky:
        who = f"{len(shaky)} techniques depend" if len(shaky) > 1 else says(shaky[0], "depends")
        text = "; ".join(_range(entry) for entry in shaky[:_MOST_SHOWN])
        text += ": more than chance on these rows. One training of such a technique says little."
        return [finding("unsteady", "certain", f"{who} on luck.", text)]
    if wide:
        text = f"The widest spread is that of {_range(wide[0])}; on {facts.n_rows} that may be chance."
        return [finding("steady", "tied", "No seed stands out.", text)]
    if several:
        widest = max(several, key=lambda entry: entry["spread"])
        text = f"The widest spread is that of {_range(widest)}."
        return [finding("steady", "certain", "The seed hardly matters.", text)]
    return []


def _range(entry: Entry) -> str:
    values = [seed["value"] for seed in entry["per_seed"] if seed["value"] is not None]
    return f"{name(entry)}, {100 * min(values):.1f} to {words.percent(max(values))} over {len(values)} seeds"


def _power(facts: Facts) -> list[Finding]:
    """How many test rows would tell the first two apart."""
    if len(facts.entries) < 2 or facts.is_above(facts.entries[0], facts.entries[1]):
        return []
    first, second = facts.entries[:2]
    pair, n_rows = facts.pair(first, second), facts.board["n_rows"]
    if pair["rows_needed"] is None:
        text = f"{name(first)} and {name(second)} are {words.points(pair['difference'])} apart: no number of test rows "
        return [finding("power", "open", "The first two are level.", text + "that one could gather tells them apart.")]
    needed = words.about(pair["rows_needed"])
    text = f"To tell {name(first)} from {name(second)} with 80 % power, about {needed} test rows would be needed"
    if pair["rows_needed"] <= n_rows:
        text += (
            f", fewer than the {n_rows:,} there are: for this pair alone they would do. Corrected for all "
            f"{len(facts.board['pairs'])} pairs, and over seeds, it stays open."
        )
    else:
        text += f"; there were {n_rows:,}."
    return [finding("power", "open", f"{needed} test rows would tell the first two apart.", text)]


def _few_rows(facts: Facts) -> list[Finding]:
    n_rows = facts.board["n_rows"]
    if not 0 < n_rows < FEW_ROWS:
        return []
    low, high = wilson(round(0.8 * n_rows), n_rows)
    text = f"On so few an interval around 80 % is {100 * (high - low):.0f} points wide."
    return [finding("few_rows", "open", f"Only {words.several(n_rows, 'test row')}.", text)]


def _search(facts: Facts) -> list[Finding]:
    """Where the search for a learning rate left the technique's own default."""
    moved, n_searched = [], 0
    for technique, tries in facts.board["tries"].items():
        kept = next((one for one in tries if one["state"] == "kept"), None)
        if technique not in METHODS or kept is None or len(tries) < 2:
            continue
        n_searched += 1
        default = METHODS[technique].defaults.get("learning_rate")
        if default and not _same(kept["learning_rate"], default):
            moved.append(_moved(technique, kept, next((o for o in tries if _same(o["learning_rate"], default)), None)))
    if not n_searched:
        return []
    if not moved:
        searches = "1 search" if n_searched == 1 else f"{n_searched} searches"
        text = f"In {searches} no other rate did better on the validation rows."
        return [finding("search", "certain", "The default learning rates held.", text)]
    title = f"The search changed {len(moved)} of {words.several(n_searched, 'learning rate')}."
    return [finding("search", "certain", title, "; ".join(moved[:_MOST_SHOWN]) + ".")]


def _same(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and math.isclose(a, b, rel_tol=1e-6)


def _moved(technique: str, kept: Mapping[str, Any], default: Mapping[str, Any] | None) -> str:
    """What the found rate and the default came to at the last step that both have reached."""
    label, rate = words.name(TECHNIQUES[technique].label), words.rate(kept["learning_rate"])
    if default is None:
        return f"{label}: {rate}"
    text = f"{label}: {rate} instead of {words.rate(default['learning_rate'])}"
    if default["state"] == "failed":
        return f"{text}, which failed"
    mine, theirs = ({rung["step"]: rung for rung in one["rungs"]} for one in (kept, default))
    common = sorted(set(mine) & set(theirs))
    if not common:
        return text
    a, b = mine[common[-1]], theirs[common[-1]]
    if a.get("value") is not None and b.get("value") is not None:
        found = f"{words.percent(a['value'])} instead of {words.percent(b['value'])}"
    elif a.get("loss") is not None and b.get("loss") is not None:
        found = f"loss {a['loss']:.3g} instead of {b['loss']:.3g}"
    else:
        return text
    return f"{text}, {found} on the validation rows after {common[-1]} steps"


def _edge(facts: Facts) -> list[Finding]:
    """Searches that ended at the lowest or highest rate that was tried."""
    found = []
    for technique, tries in facts.board["tries"].items():
        rates = sorted(one["learning_rate"] for one in tries if one["learning_rate"] is not None)
        kept = next((one["learning_rate"] for one in tries if one["state"] == "kept"), None)
        if len(rates) >= 3 and kept is not None and kept in (rates[0], rates[-1]):
            which = "lowest" if kept == rates[0] else "highest"
            found.append(
                f"{words.name(TECHNIQUES[technique].label)}: {words.rate(kept)} is the {which} of {len(rates)}"
            )
    if not found:
        return []
    text = f"{'; '.join(found[:_MOST_SHOWN])}. More tries search wider and may find more."
    title = "A search ended at its edge." if len(found) == 1 else f"{len(found)} searches ended at their edge."
    return [finding("edge", "open", title, text)]


def _missing(facts: Facts) -> list[Finding]:
    """Cells that failed, were left out, or are still to come."""
    found = []
    for kind, what in (("failed", "failed"), ("left_out", "left out")):
        if cells := facts.board[kind]:
            were = what if kind == "failed" else f"was {what}" if len(cells) == 1 else f"were {what}"
            title = f"{words.several(len(cells), 'cell')} {were}."
            found.append(finding(kind, "open", title, _reasons(cells)))
    counts = facts.board["n_cells"]
    if counts["waiting"] and facts.entries:
        title = f"{counts['waiting']} of {words.several(counts['total'], 'cell')} to come."
        found.append(finding("waiting", "open", title, "The figures are those of the cells that are done."))
    return found


def _reasons(cells: Sequence[Mapping[str, Any]]) -> str:
    """Which techniques, and why; cells of one technique with one reason are told together."""
    by_reason: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for cell in cells:
        why = cell.get("reason") or (cell.get("error") or {}).get("message") or "no reason is known"
        by_reason.setdefault((words.name(cell["label"]), str(why).strip().rstrip(".")), []).append(cell)
    shown = []
    for (label, why), own in by_reason.items():
        which = words.several(len(own), "cell") if len(own) > 1 else f"seed {own[0]['seed']}"
        shown.append(f"{label}, {which}: {why}")
    more = len(shown) - _MOST_SHOWN
    return "; ".join(shown[:_MOST_SHOWN]) + (f"; and {more} more" if more > 0 else "") + "."


rules = (_rows, _grows, _seeds, _power, _few_rows, _search, _edge, _missing)
