"""Cuts a text into chunks that overlap, at its own seams: headings, paragraphs, sentences, words.

Guarantees: every chunk is an exact piece of the text (`text[start:end] == chunk.text`) of at most `size` tokens of the
embedding model, so that nothing of it is cut off unseen when it is embedded. Cut by semantic-text-splitter (Rust).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from ml.errors import SpecError

MIN_SIZE, MAX_SIZE = 16, 510


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A piece of a document."""

    number: int
    """1-based, in the document's order."""
    text: str
    start: int
    """Offset in characters of its first character."""
    end: int
    """Offset after its last character."""
    page: int | None
    """1-based page on which it starts; None for formats without pages."""
    n_tokens: int
    """Tokens of the embedding model, without its special tokens."""


def check_sizes(size: int, overlap: int, *, max_size: int = MAX_SIZE) -> None:
    """Raises SpecError when chunks of `size` tokens that share `overlap` cannot be made."""
    if not MIN_SIZE <= size <= max_size:
        raise SpecError(f"Chunks must have {MIN_SIZE} to {max_size} tokens, got {size}.", field="chunk_size")
    if not 0 <= overlap <= size // 2:
        raise SpecError(
            f"The overlap must be 0 to {size // 2} tokens, half of a chunk, got {overlap}.", field="chunk_overlap"
        )


def page_at(pages: Sequence[int], offset: int) -> int | None:
    """The 1-based page on which the character at `offset` stands."""
    return bisect_right(pages, offset) or None if pages else None


def split(
    text: str, *, tokenizer: Any, size: int, overlap: int, pages: Sequence[int] = (), is_markdown: bool = False
) -> list[Chunk]:
    """`text` in chunks. `tokenizer`: the embedder's `tokenizers.Tokenizer` without truncation and padding."""
    check_sizes(size, overlap)
    splitter = MarkdownSplitter if is_markdown else TextSplitter
    cutter = splitter.from_huggingface_tokenizer(tokenizer, size, overlap)
    chunks: list[Chunk] = []
    for start, piece in cutter.chunk_indices(text):
        if not any(character.isalnum() for character in piece):
            continue
        n_tokens = len(tokenizer.encode(piece, add_special_tokens=False).ids)
        number, end = len(chunks) + 1, start + len(piece)
        chunks.append(
            Chunk(number=number, text=piece, start=start, end=end, page=page_at(pages, start), n_tokens=n_tokens)
        )
    return chunks
