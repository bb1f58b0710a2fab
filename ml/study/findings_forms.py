"""Findings about what kind of thing is trained: soft prompts against one another, a prompt or a change inside the
layers, a model of its own or not. Techniques are found by the form of their artifact."""

from __future__ import annotations

from collections.abc import Sequence

from ml.specs.forms import GROUPS, Group
from ml.study import words
from ml.study.facts import Entry, Facts, Finding, finding, name, names, with_value

_SOFT, _DELTA = "prefix_kv", "lora_delta"


def _groups(facts: Facts) -> list[Finding]:
    """Who leads among techniques that do the same kind of thing to a model."""
    found = []
    for group in GROUPS:
        mine = [entry for entry in facts.trained if entry["form"] in group.forms]
        if len(mine) > 1:
            found.append(_group(facts, group, mine))
    return found


def _group(facts: Facts, group: Group, mine: Sequence[Entry]) -> Finding:
    head, rest = mine[0], mine[1:]
    tied = [entry for entry in rest if facts.is_tie(head, entry)]
    below = [entry for entry in rest if entry not in tied]
    kind = "soft" if _SOFT in group.forms else "group"
    verdict = f"{names([head, *tied])} are tied" if tied else f"{name(head)} is ahead"
    parts = [facts.does(head)]
    parts += [f"{with_value(entry)}, tied with it" for entry in tied]
    parts += [f"{with_value(entry)}, below it by {facts.apart(head, entry)}" for entry in below]
    return finding(kind, "tied" if tied else "certain", f"{group.title}: {verdict}.", "; ".join(parts) + ".")


def _prompt_or_delta(facts: Facts) -> list[Finding]:
    """The best soft prompt against the best low-rank change."""
    soft = next((entry for entry in facts.trained if entry["form"] == _SOFT), None)
    delta = next((entry for entry in facts.trained if entry["form"] == _DELTA), None)
    if soft is None or delta is None:
        return []
    sizes = _sizes(soft, delta)
    if facts.is_above(delta, soft):
        title = f"{name(delta)} is above every soft prompt."
        text = f"{facts.does(delta)}, {with_value(soft)}, {facts.apart(delta, soft)} less.{sizes}"
        return [finding("prompt_or_lora", "certain", title, text)]
    if facts.is_above(soft, delta):
        title = f"A soft prompt is above {name(delta)}."
        text = f"{facts.does(soft)}, {with_value(delta)}, {facts.apart(soft, delta)} less.{sizes}"
        return [finding("prompt_or_lora", "certain", title, text)]
    text = f"{facts.does(soft)}, {with_value(delta)}: on {facts.n_rows} that is a tie.{sizes}"
    return [finding("prompt_or_lora", "tied", f"{name(soft)} does as well as {name(delta)}.", text)]


def _sizes(small: Entry, large: Entry) -> str:
    if not small["artifact_bytes"] or not large["artifact_bytes"]:
        return ""
    own, other = words.size(small["artifact_bytes"]), words.size(large["artifact_bytes"])
    text = f" {name(small)} is {own}, {name(large)} {other}"
    if large["artifact_bytes"] > small["artifact_bytes"]:
        return f"{text}, {words.ratio(large['artifact_bytes'], small['artifact_bytes'])} as large."
    return f"{text}."


def _own_model(facts: Facts) -> list[Finding]:
    """The one that trains most of the model's own weights against the best that shares the model."""
    own = [entry for entry in facts.trained if entry["has_own_model"]]
    shared = [entry for entry in facts.trained if not entry["has_own_model"]]
    if not own or not shared:
        return []
    whole, best = max(own, key=lambda entry: entry["n_trainable"] or 0), shared[0]
    costs = f"It needs {words.size(whole['artifact_bytes'])} and a model of its own"
    costs += f"; {name(best)} shares the model and adds {words.size(best['artifact_bytes'])}."
    if facts.is_above(whole, best):
        gain = words.points(facts.pair(whole, best)["difference"])
        text = f"{facts.does(whole)}, {with_value(best)}, {facts.apart(whole, best)} less. {costs}"
        return [finding("full", "certain", f"{name(whole)} is worth {gain}.", text)]
    if facts.is_above(best, whole):
        text = f"{facts.does(best)}, {with_value(whole)}, {facts.apart(best, whole)} less. {costs}"
        return [finding("full", "certain", f"{name(whole)} is not worth it.", text)]
    text = f"{facts.does(whole)}, {with_value(best)}: on {facts.n_rows} that is a tie. {costs}"
    return [finding("full", "tied", f"{name(whole)} is not worth its cost.", text)]


rules = (_prompt_or_delta, _groups, _own_model)
