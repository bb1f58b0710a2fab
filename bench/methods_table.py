"""The Markdown of `bench/methods.py`: a table for each data set, groups of equals, and what it was measured with.

Results are plain dictionaries, as read from the JSON lines. Two versions are of one group when the 95 % interval of
one reaches the best of the group: a cautious reading, since both were measured on the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.method_sets import Study

Result = Mapping[str, Any]
KEPT = "\n## What it says\n"
"""From this heading on a document is written by people and survives."""
NAMES = {
    "accuracy": "accuracy", "macro_f1": "macro-F1", "bleu": "BLEU", "chrf": "chrF", "rouge_l": "ROUGE-L",
    "loss": "loss", "perplexity": "perplexity",
}  # fmt: skip
_SHARES = ("accuracy", "macro_f1", "bleu", "chrf", "rouge_l")


def groups(results: Sequence[Result], headline: str) -> list[tuple[int, Result]]:
    """(number of its group, result), best first. A group is its best and all whose interval reaches that best's."""
    ranked = sorted(results, key=lambda result: -result["metrics"][headline])
    found: list[tuple[int, Result]] = []
    number, floor = 0, float("inf")
    for result in ranked:
        low, high = result["intervals"][headline]
        if high < floor:
            number, floor = number + 1, low
        found.append((number, result))
    return found


def figure(name: str, value: float | None) -> str:
    """A share in per cent with one decimal, anything else with three digits."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}" if name in _SHARES else f"{value:.3g}"


def n_bytes(value: float | None) -> str:
    """Bytes in the unit of ten that suits."""
    if not value:
        return "–"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def table(study: Study, results: Sequence[Result]) -> str:
    """The table of one data set; runs that failed stand below it with their message."""
    done = [result for result in results if "metrics" in result]
    shown = [study.headline, *study.shown]
    heads = ["group", "technique", "rate", "steps × rows", NAMES[study.headline], "95 %",
             *(NAMES[name] for name in study.shown),
             "trained", "artifact", "training", "a step", "peak", "planned"]  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for number, result in groups([*_plain(done), *done], study.headline):
        lines.append("| " + " | ".join(_cells(number, result, shown)) + " |")
    failed = [f"- {result['label']} failed: {result['error']}" for result in results if "error" in result]
    return "\n".join([*lines, *([""] if failed else []), *failed])


def _plain(done: Sequence[Result]) -> list[Result]:
    """The untouched model as one more result, as the first run measured it."""
    first = next((result for result in done if result.get("plain")), None)
    return [{"label": "*plain model*", **first["plain"]}] if first else []


def _cells(number: int, result: Result, shown: Sequence[str]) -> list[str]:
    headline = shown[0]
    low, high = (figure(headline, bound) for bound in result["intervals"][headline])
    cells = [str(number), str(result["label"])]
    trained = "steps" in result
    cells += [f"{result['learning_rate']:g}", f"{result['steps']} × {result['batch_size']}"] if trained else ["–", "–"]
    cells += [figure(headline, result["metrics"][headline]), f"{low}–{high}"]
    cells += [figure(name, result["metrics"].get(name)) for name in shown[1:]]
    if not trained:
        return [*cells, "0", *["–"] * 5]
    sizes = [n_bytes(result[name]) for name in ("artifact_bytes", "train_peak_bytes", "planned_bytes")]
    times = [f"{result['train_s']:.0f} s", f"{result['step_s']:.2f} s"]
    return [*cells, f"{result['n_trainable']:,}", sizes[0], *times, *sizes[1:]]


def document(*, studies: Sequence[Study], results: Sequence[Result], about: Mapping[str, Any], before: str) -> str:
    """The whole study. What people wrote in `before`, the document as it was, from "What it says" on, is kept."""
    parts = [_opening(about)]
    for study in studies:
        own = [result for result in results if result["set"] == study.name]
        parts += [_set(study, own), table(study, own)] if own else []
    written = before.partition(KEPT)[2]
    return "\n\n".join(parts) + "\n" + (KEPT + written if written else "")


def _opening(about: Mapping[str, Any]) -> str:
    machine, versions = about["machine"], ", ".join(f"{name} {v}" for name, v in about["versions"].items())
    return f"""# Every technique on two data sets

Made by this command, from the first line to "What it says", at commit {about["commit"]}:

    {about["command"]}

Base model {about["base"]}, fingerprint `{about["fingerprint"][:16]}…`, {about["precision"]}. Seed {about["seed"]}.
Machine: {machine["cores"]} cores ({machine["processor"]}), {n_bytes(machine["memory_bytes"])} of memory, no GPU;
{versions}. Load of the machine (1 minute) before each run: {about["load"]}.

Every technique learned from the same rows and was measured on the same held-back rows, the plain model too; nothing was
chosen by looking at these rows, the last step counts, one seed. *Group*: techniques whose 95 % interval reaches that of
the best in the group cannot be told apart here. *Rate*: learning rate; each technique has its own.
*Trained*: numbers with a gradient. *Artifact*: everything in its folder. *Training*: processor seconds from the
memory plan to the last step, with the features and activations that are computed once, without evaluation. *Peak*: most
resident memory of the process up to the last step; loading the model alone takes 1.3 GB. *Planned*: the memory plan's
figure.

{about["rates"]}"""


def _set(study: Study, results: Sequence[Result]) -> str:
    sizes = next(((r["n_train"], r["n_test"]) for r in results if "metrics" in r), (study.n_train, study.n_test))
    return f"""## {study.name}: {study.task}

{sizes[0]:,} training rows and {sizes[1]:,} rows of `{study.measured_on}`, drawn by the hash of their prompts.
In the order of {NAMES[study.headline]}.

Published: {study.published}. {study.differs}"""
