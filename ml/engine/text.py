"""Token ids to text while they come. No torch.

Guarantees: a piece of text is given out only when it is final: never half a UTF-8 character, never text that may still
turn out to be the beginning of a stop string. The pieces joined are the decoded answer up to the stop string. Feeding
the same ids again gives the same pieces, which is how another engine takes an answer over.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

_MAX_PENDING = 8
"""Tokens held back for an unfinished character; four bytes are the longest one, so more is not a character."""


_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"
"""How SentencePiece writes a space."""


@lru_cache(maxsize=1)
def _bytes_of_characters() -> dict[str, int]:
    """Byte-level tokenizers write each byte as a printable character (Radford et al. 2019, GPT-2's encoder.py)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(ord("\u00ae"), 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + place): b for place, b in enumerate(others)}


@lru_cache(maxsize=8)
def _is_byte_level(tokenizer: Any) -> bool:
    return "\u0120" in "".join(tokenizer.tokenize(" a b"))


@lru_cache(maxsize=8)
def _added(tokenizer: Any) -> frozenset[int]:
    return frozenset(tokenizer.added_tokens_decoder)


def token_bytes(tokenizer: Any, token_id: int) -> bytes:
    """The bytes that one token stands for; those of all tokens of a text, joined, are the text's."""
    token = str(tokenizer.convert_ids_to_tokens(token_id))
    if token_id in _added(tokenizer):
        return token.encode()
    if _is_byte_level(tokenizer):
        table = _bytes_of_characters()
        return b"".join(bytes([table[c]]) if c in table else c.encode() for c in token)
    if match := _BYTE.fullmatch(token):
        return bytes([int(match[1], 16)])
    if _SPACE in token:
        return token.replace(_SPACE, " ").encode()
    return str(tokenizer.decode([token_id], clean_up_tokenization_spaces=False)).encode()


class TextStream:
    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._start = 0
        """First id of the window that is decoded; ids before `_read` are in the text already."""
        self._read = 0
        self._held = ""
        self.text = ""
        """All that was given out."""
        self.is_stopped = False

    def push(self, token_id: int) -> str:
        """The text that became final with this token."""
        if self.is_stopped:
            return ""
        self._ids.append(token_id)
        return self._give(self._decoded(final=False))

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        if self.is_stopped:
            return ""
        piece = self._give(self._decoded(final=True))
        rest = "" if self.is_stopped else self._held
        self._held = ""
        self.text += rest
        return piece + rest

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _decoded(self, *, final: bool) -> str:
        """New text of the ids since the last call. The window keeps some ids before it, as decoders look back."""
        before = self._decode(self._ids[self._start : self._read])
        after = self._decode(self._ids[self._start :])
        is_open = after.endswith("\ufffd") and len(self._ids) - self._read < _MAX_PENDING
        if len(after) <= len(before) or (is_open and not final):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return after[len(before) :]

    def _give(self, piece: str) -> str:
        self._held += piece
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            given, self._held = self._held[: min(found)], ""
        else:
            keep = max((self._overlap(stop) for stop in self._stop), default=0)
            split = len(self._held) - keep
            given, self._held = self._held[:split], self._held[split:]
        self.text += given
        return given

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that `stop` begins with."""
        for n in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if self._held.endswith(stop[:n]):
                return n
        return 0
