"""What a prompt that is not saved would send and cost, and the requests that try it on rows. Writes nothing."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings

from jobs import stream
from ml.errors import UnavailableError
from ml.specs.prompting import Pair
from webapp.models import DatasetVersion, PromptVersion
from webapp.selectors.examples import Example, try_rows
from webapp.selectors.framing import frame_of_prompt
from webapp.selectors.prompts import draft_of
from webapp.selectors.targets import Target, base_of, target_of_prompt
from webapp.services.asking import Sampling, request_for
from webapp.services.prompt_content import content_check, content_resolve

COUNT_S = 2.0
NEAREST_S = 5.0
MAX_TOKENS = 200
"""Of one answer on the page; a trial is a look, not a measurement."""
_CHARACTERS_A_TOKEN = 4
Messages = list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Rows with the requests that answer them: each row once for every version."""

    rows: list[dict[str, Any]]
    """question, wanted, cells [{place, name}]."""
    requests: list[stream.GenerateRequest]
    wanted: list[str]
    """The label that each request should give; "" where an answer is not right or wrong."""
    source: str


def _target(name: str, version: PromptVersion) -> Target:
    return replace(target_of_prompt(version, name), name=name)


def trial_of(
    versions: Sequence[tuple[str, PromptVersion]],
    *,
    data: DatasetVersion | None,
    question: str,
    team_id: int,
    seed: int,
) -> Trial:
    """Three rows of the data set's validation split, or the typed question alone. Greedy, so that only the prompts
    differ. Raises SpecError for a question that does not fit the template."""
    examples = try_rows(data, seed=seed) if data else [Example(question=question, answer="", row=0)]
    group = uuid.uuid4().hex
    rows, requests, wanted = [], [], []
    judged = data is not None and data.task == "classification"
    for example in examples:
        cells = []
        for name, version in versions:
            cells.append({"place": len(requests), "name": name})
            requests.append(request_for(
                target=_target(name, version), team_id=team_id, group=group,
                messages=[{"role": "user", "content": example.question}],
                sampling=Sampling(temperature=0.0, max_tokens=MAX_TOKENS, seed=seed),
            ))  # fmt: skip
            wanted.append(example.answer if judged else "")
        rows.append({"question": example.question, "wanted": example.answer, "row": example.row, "cells": cells})
    split = "validation" if data and data.splits.get("validation") else "train"
    return Trial(rows=rows, requests=requests, wanted=wanted, source=f"{split} rows of {data}" if data else "")


def _count(base: str, messages: Messages) -> dict[str, Any]:
    return stream.call_service("count_tokens", {"base": base, "messages": messages}, timeout_s=COUNT_S)


def cost_of(base: str, folded: Messages, bare: Messages) -> dict[str, Any]:
    """Tokens of a request, how many of them are examples, and what is left; counted by an engine, else guessed."""
    try:
        if stream.serving(base, stream.engines()):
            whole, rest = _count(base, folded), _count(base, bare)
            n, limit = int(whole["tokens"]), int(whole["limit"])
            return {"n": n, "examples": n - int(rest["tokens"]), "room": limit - n, "is_counted": True}
    except UnavailableError:
        pass  # no engine answers: the guess below says that it is one
    sizes = [sum(len(m["content"]) for m in part) // _CHARACTERS_A_TOKEN for part in (folded, bare)]
    n = sizes[0] + 4 * len(folded)
    return {"n": n, "examples": n - sizes[1] - 4 * len(bare), "room": settings.ENGINE_LENGTH - n, "is_counted": False}


def _nearest(version: PromptVersion, question: str, team_id: int) -> tuple[list[dict[str, Any]], str]:
    """The rows an engine would choose for this question, or why they cannot be shown."""
    payload = {"team_id": team_id, "dataset_version_id": version.dataset_version_id, "query": question, "k": version.k}
    try:
        if not stream.serving("", stream.engines()):
            return [], "They are chosen by the engine, which is not running."
        rows: list[dict[str, Any]] = stream.call_service("nearest", payload, timeout_s=NEAREST_S)["rows"]
        return rows, ""
    except UnavailableError:
        return [], "The rows’ vectors are being computed; that is done once. Type on, or look again in a minute."


def preview_of(content: dict[str, Any], question: str, *, team_id: int) -> dict[str, Any]:
    """`sent` messages, `cost`, and for examples chosen per question `near` or `near_problem`. Raises ColdframeError."""
    checked = content_check(**content)
    if checked["pick"] == PromptVersion.Pick.RANDOM:
        checked = content_resolve(checked)
    version = draft_of(checked, None)
    asked = [{"role": "user", "content": question}]
    frame = frame_of_prompt(version)
    near: list[dict[str, Any]] = []
    problem = ""
    if frame.nearest is not None:
        near, problem = _nearest(version, question, team_id)
    pairs: list[Pair] = [(row["question"], row["answer"]) for row in near]
    folded = frame.fold(asked, pairs)
    n_pairs = len(frame.examples) + len(pairs)
    first = 1 if folded[0]["role"] == "system" else 0
    bare = folded[:first] + folded[first + 2 * n_pairs :]
    cost = cost_of(base_of(version), folded, bare)
    return {"sent": folded, "near": near, "near_problem": problem, "cost": cost, "draft": version}
