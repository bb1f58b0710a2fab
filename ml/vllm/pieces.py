"""One streamed event of vLLM's completions API, read strictly: token ids, log-probabilities, why it ended.

Guarantee: nothing that a server sends is used before it was looked at; what does not fit is an UnavailableError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NoReturn

from ml.errors import UnavailableError

_TOKEN = "token_id:"  # noqa: S105 - how vLLM writes a token's number


@dataclass(frozen=True, kw_only=True)
class Piece:
    ids: tuple[int, ...] = ()
    logprobs: tuple[list[tuple[int, float]], ...] = ()
    """For each id its own log-probability first, then those of the likeliest tokens; empty when not asked for."""
    finish_reason: str = ""


def piece_of(event: Any) -> Piece:
    """Raises UnavailableError for what is no event of the API."""
    try:
        choices = event["choices"]
        if choices == []:  # the trailing event with the usage alone
            return Piece()
        choice = choices[0]
        ids = choice.get("token_ids")
        if ids is None and choice.get("text"):
            _refuse("text without token_ids")
        ids = tuple(_id(value) for value in ids or ())
        given = choice.get("logprobs")
        logprobs = tuple(_logprobs(given, at, token) for at, token in enumerate(ids)) if given else ()
        return Piece(ids=ids, logprobs=logprobs, finish_reason=str(choice.get("finish_reason") or ""))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        _refuse(f"{type(error).__name__}: {error}")


def _id(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r:.40} is no token id")
    return value


def _logprobs(given: Any, at: int, token: int) -> list[tuple[int, float]]:
    likeliest = [(_id(int(name.removeprefix(_TOKEN))), _number(value)) for name, value in
                 (given["top_logprobs"][at] or {}).items()]  # fmt: skip
    likeliest.sort(key=lambda pair: -pair[1])
    return [(token, _number(given["token_logprobs"][at])), *likeliest]


def _number(value: Any) -> float:
    number = float(value)
    if math.isnan(number):
        raise ValueError("a log-probability is not a number")
    return number


def _refuse(why: str) -> NoReturn:
    raise UnavailableError(f"vLLM sent what cannot be read: {why:.200}.", hint="Use vLLM 0.30 or a later version.")
