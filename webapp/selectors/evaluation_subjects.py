"""What an evaluation measures, and how its subject is asked about a row of data: the same way as in chat and API.

An adapter or the plain model is asked with the row's messages as they were trained on. A prompt brings its own framing:
it is asked with what the row says once the data set's framing is taken off, and its system text replaces the data
set's. Reads only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jobs.stream import GenerateRequest
from ml.errors import SpecError
from ml.specs.questions import question_of
from webapp.models import AdapterVersion, Collection, DatasetVersion, Evaluation, PromptVersion, Team
from webapp.selectors.framing import Frame
from webapp.selectors.targets import (
    BASE,
    PROMPT,
    Target,
    resolve,
    target_base,
    target_of_adapter,
    target_of_prompt,
    unserved_error,
)
from webapp.services.asking import Sampling, request_for


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A target with all its versions pinned."""

    target: Target
    """Its frame is the prompt's; empty where there is no prompt."""
    adapter: AdapterVersion | None = None
    prompt: PromptVersion | None = None
    collection: Collection | None = None

    @property
    def name(self) -> str:
        return " + ".join(part for part in (str(self.adapter or ""), f"{PROMPT}{self.prompt}" if self.prompt else "")
                          if part) or self.target.name  # fmt: skip

    @property
    def is_scored(self) -> bool:
        """Whether labels and expected answers can be scored: nothing is written before the answer, nobody votes."""
        if self.prompt is None:
            return True
        frame = self.target.frame
        is_reasoned = self.prompt.technique == PromptVersion.Technique.CHAIN_OF_THOUGHT
        return not (is_reasoned or frame.rule or frame.n_samples > 1)


def subject_of(
    *, adapter: AdapterVersion | None, prompt: PromptVersion | None, collection: Collection | None, base: str = ""
) -> Subject:
    if prompt is not None:
        target = target_of_prompt(prompt)
        if adapter is not None:
            own = target_of_adapter(adapter)
            target = replace(target, artifact=own.artifact, base=own.base, form=own.form,
                             unserved=own.unserved or target.unserved)  # fmt: skip
    else:
        target = replace(target_of_adapter(adapter) if adapter else target_base(base), frame=Frame())
    if base:
        target = replace(target, base=base)
    return Subject(target=target, adapter=adapter, prompt=prompt, collection=collection)


def subject_named(*, team: Team, model: str, prompt: str = "", collection: str = "") -> Subject:
    """The subject behind names of this team, aliases resolved now. `base` beside a prompt leaves it on its own base
    model; another base model's name does not. Raises NotFoundError or SpecError."""
    first = resolve(team=team, name=model or "base")
    second = resolve(team=team, name=prompt if prompt.startswith(PROMPT) else PROMPT + prompt) if prompt else None
    if second is not None and isinstance(first.version, PromptVersion):
        raise SpecError(f"{first.name} is a prompt already.", hint="Choose an adapter or base beside the prompt.",
                        field="prompt")  # fmt: skip
    found = None
    if collection:
        found = Collection.objects.for_team(team).filter(name=collection).first()
        if found is None:
            raise SpecError(f"Your team has no collection {collection[:80]!r}.", field="collection")
    prompt_version = (second or first).version
    subject = subject_of(
        adapter=first.version if isinstance(first.version, AdapterVersion) else None,
        prompt=prompt_version if isinstance(prompt_version, PromptVersion) else None, collection=found,
        base=first.base if first.is_base and not (second and first.asked == BASE) else "",
    )  # fmt: skip
    if subject.target.unserved:
        raise unserved_error(subject.name, subject.target.unserved)
    own = getattr(subject.prompt, "collection", None)
    return subject if found or own is None else replace(subject, collection=own)


def subject_in(evaluation: Evaluation) -> Subject:
    return subject_of(
        adapter=evaluation.adapter_version, prompt=evaluation.prompt_version, collection=evaluation.collection,
        base=evaluation.base_name,
    )  # fmt: skip


def asked_about(row: Mapping[str, Any]) -> str:
    """The row's last turn, as the data set has it."""
    return str(row["messages"][-1]["content"])


def _messages(subject: Subject, version: DatasetVersion, row: Mapping[str, Any]) -> list[dict[str, str]]:
    turns = [{"role": m["role"], "content": m["content"]} for m in row["messages"]]
    if subject.prompt is None:
        return turns
    asked = {"role": "user", "content": question_of(version.mapping, turns[-1]["content"])}
    return [*(turn for turn in turns[:-1] if turn["role"] != "system"), asked]


def request_of(evaluation: Evaluation, row: Mapping[str, Any]) -> GenerateRequest:
    """The engine's request for one row. Greedy, without a repetition penalty. Raises SpecError."""
    return request_for_row(subject_in(evaluation), evaluation.dataset_version, row, evaluation.spec)


def request_for_row(
    subject: Subject, version: DatasetVersion, row: Mapping[str, Any], spec: Mapping[str, Any]
) -> GenerateRequest:
    picks = bool(version.labels) and spec["is_scored"]
    extra: dict[str, Any] = {}
    if picks:
        extra["choices"] = list(version.labels)
    elif "perplexity" in spec["metrics"]:
        extra["references"] = [row["completion"]]
    sampling = Sampling(temperature=0.0, top_p=1.0, repetition_penalty=1.0, seed=spec.get("seed", 17),
                        max_tokens=1 if picks else spec["max_tokens"])  # fmt: skip
    request = request_for(
        target=replace(subject.target, label=subject.name[:80]), team_id=version.team_id,
        messages=_messages(subject, version, row), sampling=sampling,
        collection_id=subject.collection.pk if subject.collection else None, **extra,
    )  # fmt: skip
    return replace(request, repetition_penalty=1.0)
