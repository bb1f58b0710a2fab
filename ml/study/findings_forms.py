"""Findings about what kind of thing is trained: soft prompts against one another, a prompt or a change inside the
layers, a model of its own or not. Techniques are found by the form of their artifact."""

from __future__ import annotations

from collections.abc import Sequence

from ml.specs.forms import GROUPS, Group
from ml.study import words
from ml.study.facts import Entry, Facts, Finding, Sure, finding, name, names, says, verb, with_value

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
    verdicts = [(entry, *facts.verdict(head, entry)) for entry in rest]
    tied = [entry for entry, sure, _ in verdicts if sure == "tied"]
    parts = [facts.does(head), *(f"{with_value(entry)}, {verdict}" for entry, _, verdict in verdicts)]
    title = f"{names([head, *tied])} are tied" if tied else f"{says(head, 'is')} ahead"
    is_certain = all(sure == "certain" for _, sure, _ in verdicts)
    kind = "soft" if _SOFT in group.forms else "group"
    sure: Sure = "tied" if tied else "certain" if is_certain else "open"
    return finding(kind, sure, f"{group.title}: {title}.", "; ".join(parts) + ".")


def _prompt_or_delta(facts: Facts) -> list[Finding]:
    """The best soft prompt against the best low-rank change."""
    soft = next((entry for entry in facts.trained if entry["form"] == _SOFT), None)
    delta = next((entry for entry in facts.trained if entry["form"] == _DELTA), None)
    if soft is None or delta is None:
        return []
    first, second = sorted((soft, delta), key=lambda entry: entry["place"])
    sure, verdict = facts.verdict(first, second)
    ahead = f"{name(delta)} {verb(delta, 'is')} above every soft prompt" if first is delta else (
        f"{name(soft)} {verb(soft, 'is')} above {name(delta)}")  # fmt: skip
    titles = {
        "certain": f"{ahead}.",
        "open": f"{ahead}, likely.",
        "tied": f"{name(first)} and {name(second)} are tied.",
    }
    text = f"{facts.does(first)}, {with_value(second)}: {verdict}.{_sizes(soft, delta)}"
    return [finding("prompt_or_lora", sure, titles[sure], text)]


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
    first, second = sorted((whole, best), key=lambda entry: entry["place"])
    sure, verdict = facts.verdict(first, second)
    text = (
        f"{facts.does(first)}, {with_value(second)}: {verdict}. {says(whole, 'needs')} "
        f"{words.size(whole['artifact_bytes'])} and a model of its own; {says(best, 'shares')} the model and "
        f"{verb(best, 'adds')} {words.size(best['artifact_bytes'])}."
    )
    label = says(whole, "is")
    if first is best:
        return [finding("full", sure, f"{label} not worth it.", text)]
    gain = words.points(facts.pair(whole, best)["difference"])
    titles = {"certain": f"{label} worth {gain}.", "open": f"{label} likely to be worth {gain}.",
              "tied": f"Whether {label} worth it is open."}  # fmt: skip
    return [finding("full", sure, titles[sure], text)]


rules = (_prompt_or_delta, _groups, _own_model)
