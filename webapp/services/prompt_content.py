"""What a prompt version may hold: technique, template, examples, answer rule, votes, data set, collection.

`content_check` looks at the content alone and is quick enough for every keystroke; `content_resolve` reads the data
set: it draws random examples, so that a version shows and caches exactly what it sends, and refuses examples that stand
in validation or test. Guarantees: every placeholder names something, or is refused by name. Writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings

from ml.errors import DataError, SpecError
from ml.specs.prompting import FIELD_NAME, LABELS, QUESTION, placeholders
from ml.specs.voting import MAX_SAMPLES, rule_check
from webapp.models import Collection, DatasetVersion, PromptVersion
from webapp.selectors.examples import fields_of, find_leaks, pool, random_examples
from webapp.services.runs import base_family

LONGEST = 8_000
MOST_EXAMPLES = 32
MOST_FIELDS = 8
MAX_SEED = 2**31 - 1
Technique, Pick = PromptVersion.Technique, PromptVersion.Pick


def text_check(value: Any, what: str, field: str, *, longest: int = LONGEST) -> str:
    text = str(value or "").replace("\r\n", "\n").replace("\x00", "").strip()
    if len(text) > longest:
        raise SpecError(f"{what} has at most {longest:,} characters, got {len(text):,}.", field=field)
    return text


def _whole(value: Any, what: str, field: str, low: int, high: int) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = low - 1
    if not low <= number <= high:
        raise SpecError(f"{what} must be a whole number from {low} to {high}, got {str(value)[:40]!r}.", field=field)
    return number


def _braced(names: Sequence[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)


def _unknown(names: Sequence[str], known: Sequence[str], field: str, where: str) -> SpecError:
    escaped = f"{{{{{names[0]}}}}}"
    return SpecError(
        f"Unknown placeholder{'s' if len(names) > 1 else ''} {_braced(names)}{where}.", field=field,
        hint=f"Known here: {_braced(known) or 'none'}. Write {escaped} for the text itself.",
    )  # fmt: skip


def template_check(
    template: Any, fields: Sequence[str] = (QUESTION,), constants: Sequence[str] = ()
) -> tuple[str, list[str]]:
    """The template, stripped, and the fields it asks for. Raises SpecError naming what is missing or unknown in it."""
    text = text_check(template, "A template", "template")
    asked = placeholders(text)
    if unknown := sorted(set(asked) - {*fields, *constants}):
        raise _unknown(unknown, [*fields, *constants], "template", "")
    used = [name for name in asked if name in fields]
    if not used:
        raise SpecError("The template does not say where the question goes.", field="template",
                        hint=f"Put {{{fields[0]}}} where the typed text shall stand.")  # fmt: skip
    return text, used


def fields_check(given: Any) -> list[str]:
    """The declared names of a prompt without a data set, from a list or a text with commas."""
    names = [part.strip() for part in given.split(",")] if isinstance(given, str) else list(given or ())
    names = list(dict.fromkeys(name for name in names if name)) or [QUESTION]
    for name in names:
        if not isinstance(name, str) or not FIELD_NAME.fullmatch(name) or len(name) > 40 or name == LABELS:
            raise SpecError(f"{str(name)[:60]!r} is no name for a field.", field="fields",
                            hint="Letters, digits and _, beginning with a letter; labels is taken.")  # fmt: skip
    if len(names) > MOST_FIELDS:
        raise SpecError(f"A prompt has at most {MOST_FIELDS} fields, got {len(names)}.", field="fields")
    return names


def examples_check(examples: Sequence[Mapping[str, Any]], technique: str) -> list[dict[str, Any]]:
    """The pairs, stripped, without the wholly empty ones. Raises SpecError naming the pair."""
    pairs: list[dict[str, Any]] = []
    for number, pair in enumerate(examples, start=1):
        question = text_check(pair.get("question"), f"Example {number}", "examples")
        answer = text_check(pair.get("answer"), f"Example {number}", "examples")
        steps = text_check(pair.get("steps"), f"Example {number}", "examples")
        if bool(question) != bool(answer) or (steps and not question):
            missing = "answer" if question else "question"
            raise SpecError(f"Example {number} has no {missing}.", hint="Fill it in, or clear it.", field="examples")
        if question:
            shown = {"steps": steps} if steps and technique == Technique.CHAIN_OF_THOUGHT else {}
            pairs.append({"question": question, "answer": answer, **shown})
    if len(pairs) > MOST_EXAMPLES:
        raise SpecError(f"A prompt has at most {MOST_EXAMPLES} examples, got {len(pairs)}.", field="examples")
    if technique == Technique.FEW_SHOT and not pairs:
        raise SpecError("Few-shot needs at least one example, got none.", field="examples",
                        hint="Add a question with the answer you want, or have them drawn.")  # fmt: skip
    if technique == Technique.ZERO_SHOT and pairs:
        raise SpecError(f"Zero-shot has no examples, got {len(pairs)}.", field="examples",
                        hint="Choose few-shot, or clear them.")  # fmt: skip
    return pairs


def _picked(technique: str, pick: str, k: Any, seed: Any, examples: Sequence[Mapping[str, Any]],
            data: DatasetVersion | None) -> dict[str, Any]:  # fmt: skip
    if pick not in Pick.values:
        raise SpecError(f"Unknown way to choose examples {pick[:40]!r}.", hint="One of: " + ", ".join(Pick.values),
                        field="pick")  # fmt: skip
    if pick == Pick.FIXED or technique != Technique.FEW_SHOT:
        return {"pick": Pick.FIXED.value, "k": 0, "order_seed": None, "examples": examples_check(examples, technique)}
    if data is None:
        raise SpecError(f"{Pick(pick).label} examples come from a data set, got none.", field="dataset",
                        hint="Choose the data set that the prompt is for.")  # fmt: skip
    n = _whole(k, "The number of examples", "k", 1, MOST_EXAMPLES)
    n_rows = data.splits.get("train", 0)
    if n_rows < n:
        rows = "training row" if n_rows == 1 else "training rows"
        raise SpecError(f"{data} has {n_rows} {rows}, {n} examples are wanted.", field="k")
    is_random = pick == Pick.RANDOM
    order = _whole(17 if seed in (None, "") else seed, "The order seed", "order_seed", 0, MAX_SEED)
    return {"pick": pick, "k": n, "order_seed": order if is_random else None, "examples": []}


def _answering(technique: str, kind: Any, marker: Any, n_samples: Any, temperature: Any,
               labels: Sequence[str]) -> dict[str, Any]:  # fmt: skip
    if technique != Technique.CHAIN_OF_THOUGHT:
        return {"rule": {}, "n_samples": 1, "sample_temperature": 0.7}
    rule = rule_check(kind or "", marker, labels)
    n = _whole(1 if n_samples in (None, "") else n_samples, "The number of votes", "n_samples", 1, MAX_SAMPLES)
    try:
        heat = float(temperature if temperature not in (None, "") else 0.7)
    except (TypeError, ValueError):
        heat = math.nan
    if not 0.05 <= heat <= 2:
        raise SpecError(f"The votes' temperature must be a number from 0.05 to 2, got {str(temperature)[:40]!r}.",
                        hint="At 0 all texts would be the same.", field="sample_temperature")  # fmt: skip
    if n > 1 and not rule:
        raise SpecError(f"{n} texts cannot vote when their whole text is the answer.", field="answer_kind",
                        hint="Say where in the text the answer stands.")  # fmt: skip
    return {"rule": rule, "n_samples": n, "sample_temperature": heat}


def _base_name(given: Any) -> str:
    """A base model that no engine serves is taken: the version then says so, as an adapter's does."""
    name = str(given or "")
    if name and name not in settings.BASE_MODELS:
        base_family(name, field="base_model")
    return name


def content_check(
    *, technique: str, template: Any, system: Any = "", examples: Sequence[Mapping[str, Any]] = (), fields: Any = (),
    dataset: DatasetVersion | None = None, pick: str = "fixed", k: Any = 0, order_seed: Any = None,
    answer_kind: Any = "", marker: Any = "", n_samples: Any = 1, sample_temperature: Any = 0.7,
    collection: Collection | None = None, base_model: Any = "",
) -> dict[str, Any]:  # fmt: skip
    """A version's content, checked, by the names of PromptVersion's fields. Raises SpecError with `field` set."""
    if technique not in Technique.values:
        known = ", ".join(Technique.values)
        raise SpecError(f"Unknown technique {technique!r}.", hint=f"Techniques: {known}.", field="technique")
    labels = list(dataset.labels or []) if dataset else []
    constants = [LABELS] if labels else []
    names = fields_of(dataset) if dataset else fields_check(fields)
    text, used = template_check(template, names, constants)
    if dataset and len(used) > 1:
        raise SpecError(f"{_braced(used)} stand for the same text of {dataset}.", hint="Use one.", field="template")
    said = text_check(system, "The system text", "system")
    if unknown := [name for name in placeholders(said) if name not in constants]:
        raise _unknown(unknown, constants, "system", " in the system text")
    return {
        "base_name": _base_name(base_model), "technique": technique, "system": said,
        "template": text, "fields": used if dataset else names,
        "dataset_version": dataset, "collection": collection, "collection_name": collection.name if collection else "",
        **_picked(technique, str(pick or "fixed"), k, order_seed, examples, dataset),
        **_answering(technique, answer_kind, marker, n_samples, sample_temperature, labels),
    }  # fmt: skip


def content_resolve(content: Mapping[str, Any]) -> dict[str, Any]:
    """Checked content with its random examples drawn. Raises DataError for examples that are held-out rows."""
    data = content["dataset_version"]
    if data is None:
        return dict(content)
    if content["pick"] == Pick.RANDOM:
        drawn = random_examples(data, k=content["k"], seed=content["order_seed"])
        pairs = [{"question": e.question, "answer": e.answer, "row": e.row} for e in drawn]
        return {**content, "examples": pairs}
    leaks = find_leaks(data, [pair["question"] for pair in content["examples"]]) if content["examples"] else []
    if leaks:
        number, split, row = leaks[0]
        raise DataError(
            f"Example {number} is row {row} of {data}, which is held out in its {split} split.", field="examples",
            hint="That would be leakage: the prompt would be measured on what it was shown. Take training rows.",
            code="leakage",
        )  # fmt: skip
    return dict(content)


def clean_check(*, prompt: PromptVersion, dataset: DatasetVersion, split: str) -> None:
    """Raises DataError when a row that the prompt is to be measured on is, or may be, one of its examples: also when
    they come from another data set, or another version with other splits."""
    if prompt.pick == Pick.NEAREST and prompt.dataset_version is not None:
        questions = [example.question for example in pool(prompt.dataset_version)]
    else:
        questions = [str(pair.get("question", "")) for pair in prompt.examples]
    leaks = find_leaks(dataset, questions, (split,)) if questions else []
    if leaks:
        _, _, row = leaks[0]
        more = f" and {len(leaks) - 1} more" if len(leaks) > 1 else ""
        raise DataError(
            f"Row {row}{more} of the {split} split of {dataset} may be shown by {prompt} as an example.",
            hint="That would be leakage: choose rows that the prompt does not know, or examples from other rows.",
            field="prompt", code="leakage",
        )  # fmt: skip
