"""Messages to token ids for models without a chat: encoders and encoder-decoders.

All messages become one text: their contents in order, a blank line between two. The tokenizer's own special tokens
stand around it, as the model was pretrained; for an encoder-decoder the answer is a text of its own that ends in the
end-of-sequence token. Guarantees: training, evaluation and counting use the same ids; special tokens are never cut;
text that spells one is defused. A row that is too long loses the text's start, as a decoder's does, then the answer's
end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ml.data.chat import check_messages, defuse
from ml.data.rows import Row, row_named
from ml.errors import DataError

_NO_LIMIT = 1 << 30


@dataclass(frozen=True, kw_only=True)
class LabelledText:
    """One row of an encoder: a text and the number of its label."""

    ids: list[int]
    """[T] the text with the tokenizer's special tokens."""
    label: int
    """Place among the classifier's labels, from 0."""
    n_cut: int = 0
    """Tokens cut from the text's start."""

    @property
    def n_tokens(self) -> int:
        return len(self.ids)

    @property
    def n_targets(self) -> int:
        return 1


@dataclass(frozen=True, kw_only=True)
class TextPair:
    """One row of an encoder-decoder: what the encoder reads and what the decoder is to write."""

    ids: list[int]
    """[S] the text with the tokenizer's special tokens."""
    target: list[int]
    """[T] the answer, ended by the end-of-sequence token."""
    n_cut: int = 0
    """Tokens cut from the text's start and the answer's end."""

    @property
    def n_tokens(self) -> int:
        return len(self.ids) + len(self.target)

    @property
    def n_targets(self) -> int:
        return len(self.target)


def plain_text(messages: Sequence[Mapping[str, str]]) -> str:
    """The contents of `messages` in order, a blank line between two; empty ones are left out."""
    return "\n\n".join(m["content"] for m in check_messages(messages) if m["content"].strip())


def labelled_text(tokenizer: Any, messages: Sequence[Mapping[str, str]], label: int, max_length: int) -> LabelledText:
    """The text's ids, at most `max_length`. Raises DataError when no token of it fits or is there."""
    ids, n_cut = text_ids(tokenizer, messages, max_length)
    return LabelledText(ids=ids, label=label, n_cut=n_cut)


def text_pair(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], completion: str, max_length: int
) -> TextPair:  # fmt: skip
    """Text and answer, together at most `max_length` ids.

    Too long: the text loses its start, but keeps a quarter of `max_length`; then the answer loses its end. Raises
    DataError when no token of one of them would be left.
    """
    whole = len(text_ids(tokenizer, messages, _NO_LIMIT)[0])
    before, after = around(tokenizer)
    kept = min(whole, max(max_length // 4, len(before) + len(after) + 1))
    target, n_lost = target_ids(tokenizer, completion, max_length - kept)
    ids, n_cut = text_ids(tokenizer, messages, max_length - len(target))
    return TextPair(ids=ids, target=target, n_cut=n_cut + n_lost)


def text_ids(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], max_length: int = _NO_LIMIT
) -> tuple[list[int], int]:
    """Ids of `messages` as one text, special tokens around it, and how many were cut from its start."""
    before, after = around(tokenizer)
    content = _content(tokenizer, plain_text(messages))
    room = max_length - len(before) - len(after)
    if not content:
        raise DataError("The text is empty.", hint="Every row needs a text to read.", field="messages")
    if room < 1:
        raise _nothing_left("text", max_length)
    cut = max(0, len(content) - room)
    return [*before, *content[cut:], *after], cut


def target_ids(tokenizer: Any, completion: str, max_length: int = _NO_LIMIT) -> tuple[list[int], int]:
    """Ids of an answer that end in the end-of-sequence token, and how many were cut from the answer's end.

    Raises DataError when there is no text to learn, or no room for any of it.
    """
    before, after = around(tokenizer, is_target=True)
    content = _content(tokenizer, completion, is_target=True) if completion.strip() else []
    if not content:
        raise DataError(
            f"The answer is empty, got {completion!r:.80}.", hint="Every row needs an answer.", field="completion"
        )
    room = max_length - len(before) - len(after)
    if room < 1:
        raise _nothing_left("answer", max_length)
    return [*before, *content[:room], *after], max(0, len(content) - room)


def _nothing_left(what: str, max_length: int) -> DataError:
    return DataError(
        f"No token of the {what} is left when it may have {max_length} tokens.",
        hint="Raise the longest row.",
        field="max_length",
    )


def _content(tokenizer: Any, text: str, *, is_target: bool = False) -> list[int]:
    return _ids(tokenizer, defuse(tokenizer, text), special=False, is_target=is_target)


def _ids(tokenizer: Any, text: str, *, special: bool, is_target: bool) -> list[int]:
    given = {"text_target" if is_target else "text": text}
    return [int(i) for i in tokenizer(**given, add_special_tokens=special)["input_ids"]]


@lru_cache(maxsize=16)
def around(tokenizer: Any, *, is_target: bool = False) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens before and after a text; an answer always has the end-of-sequence token after it."""
    content = _ids(tokenizer, "a", special=False, is_target=is_target)
    whole = _ids(tokenizer, "a", special=True, is_target=is_target)
    first = next(i for i in range(len(whole)) if whole[i : i + len(content)] == content)
    before, after = tuple(whole[:first]), tuple(whole[first + len(content) :])
    if is_target and tokenizer.eos_token_id not in after:
        if tokenizer.eos_token_id is None:
            raise DataError(
                "The tokenizer has no end-of-sequence token.", hint="Set eos_token in tokenizer_config.json."
            )
        after = (*after, int(tokenizer.eos_token_id))
    return before, after


def encode_labelled(
    rows: Sequence[Row], tokenizer: Any, labels: Sequence[str], max_length: int
) -> list[LabelledText]:  # fmt: skip
    """Every row as text and label number. Raises DataError with the row's number."""
    numbers = {label: number for number, label in enumerate(labels)}
    encoded = []
    for row in rows:
        with row_named(row):
            if row.completion not in numbers:
                raise DataError(
                    f"{row.completion!r:.80} is not among the labels.",
                    hint="Labels: " + ", ".join(labels)[:300],
                    field="labels",
                )
            encoded.append(labelled_text(tokenizer, row.messages, numbers[row.completion], max_length))
    return encoded


def encode_pairs(rows: Sequence[Row], tokenizer: Any, max_length: int) -> list[TextPair]:
    """Every row as text and answer. Raises DataError with the row's number."""
    encoded = []
    for row in rows:
        with row_named(row):
            encoded.append(text_pair(tokenizer, row.messages, row.completion, max_length))
    return encoded
