"""Formats that carry roles: how a row of one becomes messages and the answer that is learnt.

OpenAI messages, ShareGPT, Alpaca, prompt and completion (text or message lists), preference pairs (the chosen answer is
learnt, the rejected one is not read), SQuAD, and rows of one text. Tool calls, images and audio are refused.
"""

from __future__ import annotations

from collections.abc import Mapping as AbstractMapping
from typing import Any, NamedTuple

from ml.data.raw import RowError, as_text

_SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "model": "assistant", "bot": "assistant", "system": "system",
}  # fmt: skip
_OPENAI_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
WRITE_ONE = "Write a text."
"""What rows of one text are asked for when the mapping says nothing."""
Turns = list[dict[str, str]]


class Found(NamedTuple):
    """What a row holds."""

    messages: Turns
    completion: str
    answers: tuple[str, ...] = ()
    """Every answer that counts as right, where a data set has several."""


def _content(message: AbstractMapping[str, Any], key: str, number: int) -> str:
    content = message.get(key)
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise RowError(f"has a message ({number}) with something other than text", received=content,
                           hint="Images, audio and tool results cannot be learnt from.")  # fmt: skip
        return "\n".join(str(part) for part in parts).strip()
    if message.get("tool_calls") or not isinstance(content, str):
        raise RowError(f"has a message ({number}) without text", received=message, hint="Tool calls are not read.")
    return content.strip()


def _turns(value: Any, role_key: str, text_key: str, roles: AbstractMapping[str, str]) -> Turns:
    if not isinstance(value, list) or not value:
        raise RowError("has no list of messages", received=value)
    turns = []
    for number, message in enumerate(value, start=1):
        role = message.get(role_key) if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in roles:
            raise RowError(f"has a message ({number}) by {role!r}", received=message,
                           hint="Roles: " + ", ".join(roles) + ". Tool calls are not read.")  # fmt: skip
        turns.append({"role": roles[role], "content": _content(message, text_key, number)})
    return turns


def _split_off_answer(turns: Turns) -> Found:
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise RowError("does not end in an answer", received=turns[-1]["role"] if turns else "",
                       hint="The last message must be the assistant's: it is what is learnt.")  # fmt: skip
    return Found(turns[:-1], turns[-1]["content"])


def _messages(values: AbstractMapping[str, Any], mapping: AbstractMapping[str, str]) -> Found:
    return _split_off_answer(_turns(values.get(mapping["column"]), "role", "content", _OPENAI_ROLES))


def _sharegpt(values: AbstractMapping[str, Any], mapping: AbstractMapping[str, str]) -> Found:
    turns = _turns(values.get(mapping["column"]), "from", "value", _SHAREGPT_ROLES)
    system = as_text(values.get("system")).strip()
    if system and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": system})
    return _split_off_answer(turns)


def _alpaca(values: AbstractMapping[str, Any], mapping: AbstractMapping[str, str]) -> Found:
    turns = []
    system = as_text(values.get("system")).strip()
    if system:
        turns.append({"role": "system", "content": system})
    for pair in values.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError("has a history that is not a list of [question, answer]", received=pair, column="history")
        turns.append({"role": "user", "content": as_text(pair[0]).strip()})
        turns.append({"role": "assistant", "content": as_text(pair[1]).strip()})
    parts = (as_text(values.get("instruction")).strip(), as_text(values.get("input")).strip())
    turns.append({"role": "user", "content": "\n\n".join(part for part in parts if part)})
    return Found(turns, as_text(values.get("output")))


def _prompt_completion(values: AbstractMapping[str, Any], mapping: AbstractMapping[str, str]) -> Found:
    return _asked_and_answered(values.get("prompt"), values.get("completion"))


def _preference(values: AbstractMapping[str, Any], mapping: AbstractMapping[str, str]) -> Found:
    chosen = values.get("chosen")
    if "prompt" not in values and isinstance(chosen, list):
        return _split_off_answer(_turns(chosen, "role", "content", _OPENAI_ROLES))
    return _asked_and_answered(values.get("prompt"), chosen)


def _asked_and_answered(prompt: Any, completion: Any) -> Found:
    if isinstance(prompt, list):
        turns = _turns(prompt, "role", "content", _OPENAI_ROLES)
    else:
        turns = [{"role": "user", "content": as_text(prompt).strip()}]
    if not isinstance(completion, list):
        return Found(turns, as_text(completion))
    answer = _turns(completion, "role", "content", _OPENAI_ROLES)
    # Some sets repeat the prompt in front of the answer.
    return _split_off_answer(answer if answer[: len(turns)] == turns and len(answer) > len(turns) else turns + answer)


def _squad(values: AbstractMapping[str, Any], mapping: AbstractMapping[str, str]) -> Found:
    given = values.get("answers")
    given = given.get("text") if isinstance(given, dict) else given
    answers = [as_text(answer).strip() for answer in (given if isinstance(given, list) else [given])]
    answers = list(dict.fromkeys(answer for answer in answers if answer))
    if not answers:
        raise RowError("has no answer", column="answers", received=given, kind="empty",
                       hint="Questions without an answer cannot be learnt here: leave them out.")  # fmt: skip
    context, question = (as_text(values.get(name)).strip() for name in ("context", "question"))
    if not question:
        raise RowError("has no question", column="question", received="(empty)", kind="empty",
                       hint="Fill it in, or leave the row out.")  # fmt: skip
    text = f"{context}\n\nQuestion: {question}\nAnswer:" if context else f"Question: {question}\nAnswer:"
    return Found([{"role": "user", "content": text}], answers[0], tuple(answers))


def _text(values: AbstractMapping[str, Any], mapping: AbstractMapping[str, str]) -> Found:
    asked = mapping.get("prompt", "").strip() or WRITE_ONE
    return Found([{"role": "user", "content": asked}], as_text(values.get(mapping["column"])))


READERS = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "preference": _preference,
    "squad": _squad,
    "text": _text,
}
"""By format: the row's values and the mapping to what is found. They raise RowError."""
