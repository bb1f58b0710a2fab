"""What the figures of a study say, as sentences by rules: no model is asked. First of all, what to take and why.

Every finding has a kind, how sure it is (`certain`, `tied`, `open`), a title and a text, both plain: who shows them
escapes them. Techniques are found by what they are (asked or trained, and the form of their artifact), not by name.
Rules that have nothing to say say nothing. Costs are in findings_costs.py, what the figures are worth in
findings_trust.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml.study import words
from ml.study.entries import cost_to_serve
from ml.study.facts import Entry, Facts, Finding, finding, n_tokens, name, names, with_value
from ml.study.findings_costs import fastest, not_worth, smallest
from ml.study.findings_costs import rules as cost_rules
from ml.study.findings_forms import rules as form_rules
from ml.study.findings_trust import rules as trust_rules

Rule = Callable[[Facts], list[Finding]]


def findings(board: Mapping[str, Any], about: Mapping[str, Any]) -> list[Finding]:
    """Of a board without findings; the most important one first."""
    facts = Facts(board, about)
    rules: Sequence[Rule] = (_take, _tie, _training, _guess, *form_rules, *cost_rules, *trust_rules)
    return [found for rule in rules for found in rule(facts)]


def digest(board: Mapping[str, Any]) -> list[dict[str, str]]:
    """The answers to the commonest questions, as terms and texts."""
    facts = Facts(board, {})
    found: list[tuple[str, str]] = []
    if facts.take:
        found.append(("Take", name(facts.take) if facts.take["value"] else "none yet"))
    if small := smallest(facts):
        found.append(("Smallest file", f"{name(small)}, {words.size(small['artifact_bytes'])}"))
    if fast := fastest(facts):
        found.append(("Fastest answer", f"{name(fast)}, {words.milliseconds(fast['latency_p50_ms'])}"))
    if facts.asked:
        asked, taken = facts.asked[0], facts.take
        more = n_tokens(asked) / n_tokens(taken) if taken and n_tokens(taken) else 0.0
        costs = f", at {words.ratio(more, 1)} the tokens" if more >= 1.5 else ""
        found.append(("Best untrained", f"{name(asked)}, {words.percent(asked['value'])}{costs}"))
    if wasted := not_worth(facts):
        found.append(("Not worth it", names([entry for entry, _ in wasted[:3]])))
    return [{"term": term, "text": text} for term, text in found]


def _take(facts: Facts) -> list[Finding]:
    if not facts.entries or not facts.take:
        return [finding("take", "open", "Nothing is measured yet.", "The figures come as the cells are done.")]
    best = facts.entries[0]
    if len(facts.entries) == 1:
        text = f"{facts.does(best, with_interval=True)} on {facts.n_rows}; there is nothing to compare it with."
        return [finding("take", "open", f"Only {name(best)} is measured.", text)]
    group = [entry for entry in facts.entries if entry["group"] == 1]
    if len(group) == 1:
        return [finding("take", "certain", f"Take {name(best)}.", _why_ahead(facts, best))]
    if not facts.take["value"]:
        even = "the best of them" if len(group) > 2 else "the better of them"
        text = f"{facts.does(best, with_interval=True)} on {facts.n_rows}; even {even} cannot be told from none right."
        return [finding("take", "open", "Take none of them yet.", text)]
    return [finding("take", "tied", f"Take {name(facts.take)}.", _why_cheapest(facts, best, facts.take, group))]


def _why_ahead(facts: Facts, best: Entry) -> str:
    second = facts.entries[1]
    text = (
        f"{facts.does(best, with_interval=True)} on {facts.n_rows}, the next, {name(second)}, "
        f"{words.percent(second['value'])}. The difference of {facts.apart(best, second)} is more than chance."
    )
    open_ones = [entry for entry in facts.entries[1:] if facts.is_tie(best, entry)]
    if open_ones:
        text += f" {names(open_ones)}, though lower, cannot be told apart from it for certain."
    return text


def _why_cheapest(facts: Facts, best: Entry, take: Entry, group: Sequence[Entry]) -> str:
    others = [entry for entry in group if entry is not take]
    if take is best:
        text = (
            f"{facts.does(best, with_interval=True)}, and of the {len(group)} that cannot be told apart on "
            f"{facts.n_rows} it is the cheapest to serve"
        )
    else:
        text = (
            f"{facts.does(best, with_interval=True)} and {with_value(take)}: on {facts.n_rows} that is a tie, so the "
            f"cheapest to serve of the {len(group)} wins, {name(take)}"
        )
    text += f"{_saving(take, min(others, key=cost_to_serve))}."
    if take is not best and facts.pair(best, take)["low"] > 0:
        text += (
            f" Compared alone the difference of {facts.apart(best, take)} would stand; among all comparisons with the "
            "best it does not."
        )
    return text


def _saving(take: Entry, other: Entry) -> str:
    """The first cost by which one is cheaper than the next."""
    mine, theirs = cost_to_serve(take), cost_to_serve(other)
    if mine[0] < theirs[0]:
        return f": it shares the model, where {name(other)} needs one of its own"
    if mine[1] < theirs[1]:
        return f": {n_tokens(take):.0f} tokens a request, the next {n_tokens(other):.0f}"
    if mine[2] < theirs[2]:
        return f": {words.size(take['artifact_bytes'])}, the next {words.size(other['artifact_bytes'])}"
    if mine[3] < theirs[3]:
        return f": {words.count(mine[3])} trained numbers, the next {words.count(theirs[3])}"
    return f", together with {name(other)}"


def _tie(facts: Facts) -> list[Finding]:
    group = [entry for entry in facts.entries if entry["group"] == 1]
    if len(group) < 2:
        return []
    title = f"{names(group)} are tied." if len(group) <= 3 else f"{len(group)} techniques are tied with the best."
    shown = "; ".join(with_value(entry) for entry in group)
    among = f", with {len(facts.entries)} techniques compared," if len(facts.entries) > 2 else ""
    text = f"{shown}. On {facts.n_rows}{among} differences like these may be chance."
    return [finding("tie", "tied", title, text)]


def _training(facts: Facts) -> list[Finding]:
    if not facts.trained or not facts.asked:
        return []
    trained, asked = facts.trained[0], facts.asked[0]
    untouched = [entry for entry in facts.asked[1:] if entry["technique"] == "plain"]
    alone = f" The untouched model alone reaches {words.percent(untouched[0]['value'])}." if untouched else ""
    first, second = sorted((trained, asked), key=lambda entry: entry["place"])
    sure, verdict = facts.verdict(first, second)
    if first is trained:
        text = f"{facts.does(trained)}; the best without training is {with_value(asked)}, {verdict}.{alone}"
        titles = {"certain": f"Training pays: {words.points(facts.pair(trained, asked)['difference'])}.",
                  "open": "Training is likely to pay.", "tied": "Whether training pays is open."}  # fmt: skip
    else:
        text = f"{facts.does(asked)} without training; trained, the best is {with_value(trained)}, {verdict}.{alone}"
        titles = {"certain": "Training does not pay here.", "open": "Training is not likely to pay here.",
                  "tied": "Whether training pays is open."}  # fmt: skip
    return [finding("training_pays", sure, titles[sure], text)]


def _guess(facts: Facts) -> list[Finding]:
    floor = facts.board["guess"]
    low = [entry for entry in facts.entries if floor is not None and entry["interval"][0] <= floor]
    if not low:
        return []
    are = "is" if len(low) == 1 else "are"
    title = f"{names(low)} {are} not above guessing." if len(low) <= 3 else f"{len(low)} are not above guessing."
    shown = "; ".join(f"{with_value(entry)} {words.bounds(entry['interval'])}" for entry in low)
    text = f"Always saying the most common label gives {words.percent(floor)} {facts.unit}. {shown}."
    return [finding("guess", "tied", title, text)]
