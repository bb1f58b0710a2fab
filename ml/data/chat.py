"""Messages to token ids. The only code that touches chat templates: training, evaluation and serving all come here.

Guarantees: the ids of a training example begin with exactly the ids that serving will send for the same messages, so
what is learned is what is asked. A model without a template gets the plain fallback below. Text that spells one of the
tokenizer's control tokens (`<|im_end|>`) is defused, so that no message or document can forge a turn. Templates run in
the sandbox of transformers and only ever come from the model's own folder.

Fallback, for models without a template::

    ### System:          (only when there is a system message)
    <text>

    ### User:
    <text>

    ### Assistant:
    <the answer, ended by the tokenizer's end-of-sequence token>
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2.exceptions import TemplateError

from ml.errors import DataError

ROLES = ("system", "user", "assistant")
_ZERO_WIDTH_SPACE = "\u200b"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One training row: prompt and completion as token ids."""

    ids: list[int]
    """[T] prompt, completion and the end-of-turn token."""
    n_prompt: int
    """How many of `ids` are the prompt; only what follows is trained."""
    n_cut: int = 0
    """Tokens that did not fit and were cut: from the prompt's start, then from the answer's end."""

    @property
    def n_tokens(self) -> int:
        return len(self.ids)

    @property
    def n_targets(self) -> int:
        return len(self.ids) - self.n_prompt


def check_messages(messages: Any) -> list[dict[str, str]]:
    """`messages` as plain dicts. Raises DataError when one is not {role, content} with a known role."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise DataError(f"messages must be a list with at least one message, got {messages!r:.80}.", field="messages")
    checked = []
    for number, message in enumerate(messages, start=1):
        role = message.get("role") if isinstance(message, Mapping) else None
        content = message.get("content") if isinstance(message, Mapping) else None
        if role not in ROLES or not isinstance(content, str):
            raise DataError(
                f"Message {number} must have a role and text content, got {message!r:.80}.",
                hint="Roles: " + ", ".join(ROLES) + ".",
                field="messages",
            )
        checked.append({"role": str(role), "content": content})
    return checked


@lru_cache(maxsize=8)
def _control_tokens(tokenizer: Any) -> tuple[str, ...]:
    added = {str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return tuple(sorted(added | set(tokenizer.all_special_tokens), key=len, reverse=True))


def defuse(tokenizer: Any, text: str) -> str:
    """`text` with a zero-width space inside whatever spells one of the tokenizer's control tokens."""
    for token in _control_tokens(tokenizer):
        if len(token) > 1 and token in text:
            text = text.replace(token, token[0] + _ZERO_WIDTH_SPACE + token[1:])
    return text


def _fold_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """For templates that refuse a system role: its text goes to the start of the first user message."""
    if len(messages) < 2 or messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return messages
    text = messages[0]["content"] + "\n\n" + messages[1]["content"]
    return [{"role": "user", "content": text}, *messages[2:]]


def _render(tokenizer: Any, messages: list[dict[str, str]], *, ask: bool) -> str:
    if tokenizer.chat_template is None:
        turns = "".join(f"### {m['role'].capitalize()}:\n{m['content']}\n\n" for m in messages)
        return turns + ("### Assistant:\n" if ask else "")
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask))
    except TemplateError as error:
        folded = _fold_system(messages)
        if folded == messages:
            raise DataError(
                f"The model's chat template refuses these messages: {error}.",
                hint="Most templates want user and assistant in turn, beginning with user and ending in user.",
                field="messages",
            ) from error
        return _render(tokenizer, folded, ask=ask)


def _encode(tokenizer: Any, text: str, *, special: bool = False) -> list[int]:
    return [int(i) for i in tokenizer(text, add_special_tokens=special)["input_ids"]]


def prompt_ids(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of `messages` up to where the assistant's answer begins. Raises DataError for malformed messages."""
    checked = [{**m, "content": defuse(tokenizer, m["content"])} for m in check_messages(messages)]
    text = _render(tokenizer, checked, ask=True)
    return _encode(tokenizer, text, special=tokenizer.chat_template is None)


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that is to be continued as it stands, begun as the tokenizer begins a text. Raises DataError
    when there is nothing to continue."""
    ids = _encode(tokenizer, defuse(tokenizer, text), special=True)
    if not ids:
        raise DataError("The text to continue is empty.", field="prompt")
    return ids


def completion_ids(tokenizer: Any, completion: str) -> list[int]:
    """Token ids of an answer, ended by the end-of-turn token. Raises DataError when there is no text to learn."""
    ids = _encode(tokenizer, defuse(tokenizer, completion))
    if not ids or not completion.strip():
        raise DataError(
            f"The answer is empty, got {completion!r}.", hint="Every row needs an answer to learn.", field="completion"
        )
    return [*ids, end_of_turn_id(tokenizer)]


def example_ids(tokenizer: Any, messages: Sequence[Mapping[str, str]], completion: str, max_length: int) -> Example:
    """Prompt + completion + end of turn, at most `max_length` ids.

    Too long: the prompt loses its start, but keeps a quarter of `max_length`; then the answer loses its end. Raises
    DataError when no token of the answer would be left.
    """
    prompt, answer = prompt_ids(tokenizer, messages), completion_ids(tokenizer, completion)
    n_all = len(prompt) + len(answer)
    answer = answer[: max(0, max_length - min(len(prompt), max(1, max_length // 4)))]
    if not answer:
        raise DataError(
            f"No token of the answer is left when a row may have {max_length} tokens.",
            hint="Raise the longest row.",
            field="max_length",
        )
    prompt = prompt[max(0, len(prompt) + len(answer) - max_length) :]
    ids = prompt + answer
    return Example(ids=ids, n_prompt=len(prompt), n_cut=n_all - len(ids))


@lru_cache(maxsize=8)
def end_of_turn_id(tokenizer: Any) -> int:
    """The token that ends an assistant's turn in the model's template; the end-of-sequence token when it has none."""
    if tokenizer.chat_template is not None:
        turn = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
        asked, answered = _render(tokenizer, turn[:1], ask=True), _render(tokenizer, turn, ask=False)
        special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        if answered.startswith(asked + "y"):
            ending = _encode(tokenizer, answered[len(asked) + 1 :])
            if ending and ending[0] in special:
                return ending[0]
    if tokenizer.eos_token_id is None:
        raise DataError("The tokenizer has no end-of-sequence token.", hint="Set eos_token in tokenizer_config.json.")
    return int(tokenizer.eos_token_id)


def stop_ids(tokenizer: Any, generation_config: Any = None) -> set[int]:
    """Every token after which an answer is over."""
    eos = getattr(generation_config, "eos_token_id", None)
    found = {int(i) for i in (eos if isinstance(eos, list | tuple) else [eos]) if i is not None}
    return found | {end_of_turn_id(tokenizer)}
