"""Self-consistency: one question, several texts, one vote. The rows of a ballot share steps like any other rows.

The texts are written whole before anything of them is sent, since only the vote says which one is shown; a `chain`
event tells how many are done. A takeover by another engine begins all of them anew. Seeds follow from the request's, so
that the same seed gives the same vote. The model's thread alone calls a ballot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ml.engine.types import Done, Failed, Request

_SEPARATOR = ":"


def owner_of(row_id: str) -> str:
    """The request that a row of the engine belongs to."""
    return row_id.partition(_SEPARATOR)[0]


def row_ids(request_id: str, n_samples: int) -> list[str]:
    if n_samples == 1:
        return [request_id]
    return [f"{request_id}{_SEPARATOR}{n}" for n in range(n_samples)]


def rows_of(request: Request, n_samples: int) -> list[Request]:
    """The engine's rows for a request: itself, or one for each text with a seed of its own."""
    if n_samples == 1:
        return [request]
    sampling = request.sampling
    step = 1 if sampling.seed < 2**62 else -1
    return [
        replace(request, id=row_id, sampling=replace(sampling, seed=sampling.seed + step * n))
        for n, row_id in enumerate(row_ids(request.id, n_samples))
    ]


@dataclass(eq=False)
class Ballot:
    """The texts of one request, as they end."""

    n_samples: int
    rule: Mapping[str, Any]
    done: dict[str, Done] = field(default_factory=dict)
    error: Failed | None = None

    def add(self, event: Done | Failed) -> None:
        if isinstance(event, Failed):
            self.error = self.error or event
        else:
            self.done[event.id] = event

    @property
    def is_over(self) -> bool:
        return self.error is not None or len(self.done) == self.n_samples

    def result(self) -> tuple[Done, dict[str, Any]]:
        """The text that is shown, with the figures of all, and what the vote says."""
        from ml.specs.voting import vote

        rows = [self.done[row_id] for row_id in sorted(self.done, key=lambda i: int(i.rpartition(_SEPARATOR)[2]))]
        cut = next((row for row in rows if row.finish_reason == "cancelled"), None)
        outcome = vote(self.rule, [row.text for row in rows])
        chosen = cut or rows[outcome.chosen]
        shown = replace(
            chosen, tail=chosen.text, completion_tokens=sum(row.completion_tokens for row in rows),
            first_step=min(row.first_step for row in rows), last_step=max(row.last_step for row in rows),
            first_token_ms=min(row.first_token_ms for row in rows),
            tokens_per_s=round(sum(row.tokens_per_s for row in rows), 2),
        )  # fmt: skip
        return shown, {} if cut else {**outcome.as_dict(), "chosen": outcome.chosen}


def answer_in(rule: Mapping[str, Any], text: str) -> dict[str, Any]:
    """What a single text's rule finds; nothing to tell without a rule."""
    from ml.specs.voting import extract

    return {"answer": extract(rule, text)} if rule else {}
