"""Findings about what quality costs: the smallest file, the fastest answer, the quickest training, and what is wasted.

A technique is recommended for its cost only while it keeps nine tenths of the best value, or is the one to take.
"""

from __future__ import annotations

from collections.abc import Callable

from ml.study import words
from ml.study.facts import Entry, Facts, Finding, finding, n_tokens, name, names, verb, with_value

_MOST_SHOWN = 5


def smallest(facts: Facts) -> Entry | None:
    """The smallest artifact of those that are good."""
    return _least([e for e in facts.good if e["kind"] == "trained"], lambda entry: entry["artifact_bytes"])


def fastest(facts: Facts) -> Entry | None:
    return _least(facts.good, lambda entry: entry["latency_p50_ms"])


def quickest(facts: Facts) -> Entry | None:
    """The shortest training of those that are good."""
    return _least([e for e in facts.good if e["kind"] == "trained"], lambda entry: entry["train_s"])


def _least(entries: list[Entry], cost_of: Callable[[Entry], float | None]) -> Entry | None:
    known = [(cost, place, entry) for place, entry in enumerate(entries) if (cost := cost_of(entry)) is not None]
    return min(known, key=lambda found: found[:2])[2] if known else None


def _small(facts: Facts) -> list[Finding]:
    found = smallest(facts)
    if found is None or len(facts.trained) < 2:
        return []
    own = words.size(found["artifact_bytes"])
    text = f"{facts.does(found, with_interval=True)} in {own}"
    take = facts.take
    if take and take is not found and (take["artifact_bytes"] or 0) > found["artifact_bytes"] > 0:
        more = words.ratio(take["artifact_bytes"], found["artifact_bytes"])
        text += f"; {with_value(take)}, {words.size(take['artifact_bytes'])}, {more} as much"
    rest = [e for e in facts.trained if e not in facts.good and (e["artifact_bytes"] or 0) < found["artifact_bytes"]]
    if least := _least(rest, lambda entry: entry["artifact_bytes"]):
        text += f". Smaller still {verb(least, 'is')} {name(least)}, {words.size(least['artifact_bytes'])}, "
        text += f"at {words.percent(least['value'])}"
    title = f"Where disk or many tasks matter: {name(found)}, {own}."
    return [finding("small", "certain", title, f"{text}.")]


def _fast(facts: Facts) -> list[Finding]:
    found = fastest(facts)
    if found is None or len(facts.entries) < 2:
        return []
    own = words.milliseconds(found["latency_p50_ms"])
    text = f"{facts.does(found, with_interval=True)}, half of the requests in {own} or less"
    take = facts.take
    if take and take is not found and take["latency_p50_ms"]:
        text += f"; {with_value(take)}, {words.milliseconds(take['latency_p50_ms'])}"
    return [finding("fast", "certain", f"The fastest answer: {name(found)}, {own}.", f"{text}.")]


def _quick(facts: Facts) -> list[Finding]:
    found = quickest(facts)
    if found is None or len(facts.trained) < 2:
        return []
    own = words.duration(found["train_s"])
    longest = max((e for e in facts.trained if e["train_s"]), key=lambda e: e["train_s"], default=found)
    text = f"{facts.does(found, with_interval=True)} after {own} of training"
    if longest is not found:
        text += f"; the longest, {name(longest)}, {verb(longest, 'trains')} {words.duration(longest['train_s'])}"
    return [finding("quick", "certain", f"The quickest training: {name(found)}, {own}.", f"{text}.")]


def _untrained(facts: Facts) -> list[Finding]:
    if not facts.asked:
        return []
    best, rest = facts.asked[0], facts.asked[1:]
    tied = [entry for entry in rest if facts.is_tie(best, entry)]
    text = f"{facts.does(best, with_interval=True)} and {verb(best, 'takes')} {n_tokens(best):.0f} tokens a request"
    other = facts.trained[0] if facts.trained else None
    if other and n_tokens(best) > 1.5 * n_tokens(other) > 0:
        text += f", {words.ratio(n_tokens(best), n_tokens(other))} those of {name(other)}"
    if tied:
        text += f"; tied with it: {'; '.join(with_value(entry) for entry in tied)}"
    return [finding("untrained", "tied" if tied else "certain", f"Without training: {name(best)}.", f"{text}.")]


def not_worth(facts: Facts) -> list[tuple[Entry, str]]:
    """Techniques that cost more than another one of their kind and give no more, and what they cost."""
    found = []
    for entry in facts.entries:
        rival = _rival(facts, entry)
        if rival is None:
            continue
        if entry["kind"] == "prompt":
            costs = f"{n_tokens(entry):.0f} tokens and {words.milliseconds(entry['latency_p50_ms'])} a request"
        else:
            costs = f"{words.size(entry['artifact_bytes'])} and {words.duration(entry['train_s'])} of training"
        verdict = "below" if facts.is_above(rival, entry) else "no gain over"
        found.append((entry, f"{name(entry)}: {costs}, {verdict} {name(rival)}"))
    return found


def _rival(facts: Facts, entry: Entry) -> Entry | None:
    """The best one that takes fewer tokens and does no worse (asked in words), or is certainly better and no dearer
    (trained)."""
    if entry["kind"] == "prompt":
        before = facts.asked[: facts.asked.index(entry)]
        return next((e for e in before if n_tokens(e) < n_tokens(entry)), None)
    return next((e for e in facts.trained if facts.is_above(e, entry) and _is_no_dearer(e, entry)), None)


def _is_no_dearer(a: Entry, b: Entry) -> bool:
    figures = [(a[name], b[name]) for name in ("artifact_bytes", "train_s", "latency_p50_ms")]
    return a["has_own_model"] <= b["has_own_model"] and all(
        mine is not None and theirs is not None and mine <= theirs for mine, theirs in figures
    )


def _wasted(facts: Facts) -> list[Finding]:
    found = not_worth(facts)
    if not found:
        return []
    shown = [text for _, text in found[:_MOST_SHOWN]]
    entries = [entry for entry, _ in found]
    title = f"Not worth it: {names(entries)}." if len(found) <= 3 else f"{len(found)} techniques cost more for nothing."
    is_certain = all(facts.is_above(rival, e) for e in entries if (rival := _rival(facts, e)))
    return [finding("not_worth", "certain" if is_certain else "tied", title, "; ".join(shown) + ".")]


rules = (_small, _fast, _quick, _untrained, _wasted)
