"""Chunks are exact pieces of their text, small enough, and overlap."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ml.errors import SpecError
from ml.retrieval.chunk import page_at, split
from ml.retrieval.embed import load_embedder

TEXT = "# Trees\n\n" + "".join(
    f"The tree number {i} stands on the line — 😀 of the court. Neither may harm it.\n\n" for i in range(30)
)


@pytest.fixture(scope="module")
def tokenizer(tiny_bert_models: Path) -> Any:
    return load_embedder(tiny_bert_models, "tiny-bert").tokenizer


@pytest.mark.parametrize("is_markdown", [False, True])
def test_every_chunk_is_an_exact_piece_of_the_text(tokenizer: Any, is_markdown: bool) -> None:
    chunks = split(TEXT, tokenizer=tokenizer, size=60, overlap=20, is_markdown=is_markdown)
    assert len(chunks) > 5
    assert all(TEXT[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    assert [chunk.number for chunk in chunks] == list(range(1, len(chunks) + 1))


def test_no_chunk_has_more_tokens_than_asked_for(tokenizer: Any) -> None:
    chunks = split("word" * 400 + TEXT, tokenizer=tokenizer, size=40, overlap=0)
    assert max(len(tokenizer.encode(chunk.text, add_special_tokens=False).ids) for chunk in chunks) <= 40


def test_chunks_leave_no_word_out(tokenizer: Any) -> None:
    covered = set()
    for chunk in split(TEXT, tokenizer=tokenizer, size=60, overlap=0):
        covered.update(range(chunk.start, chunk.end))
    assert all(TEXT[i].isspace() for i in range(len(TEXT)) if i not in covered)


def test_neighbouring_chunks_share_text_when_an_overlap_is_asked_for(tokenizer: Any) -> None:
    chunks = split(TEXT, tokenizer=tokenizer, size=90, overlap=45)
    assert any(after.start < before.end for before, after in pairwise(chunks))


def test_a_chunk_carries_the_page_on_which_it_starts(tokenizer: Any) -> None:
    pages = (0, 400, 900)
    for chunk in split(TEXT, tokenizer=tokenizer, size=60, overlap=0, pages=pages):
        assert chunk.page == page_at(pages, chunk.start)
    assert [page_at(pages, offset) for offset in (0, 399, 400, 2000)] == [1, 1, 2, 3]
    assert page_at((), 5) is None


@pytest.mark.parametrize(("size", "overlap", "field"), [(4, 0, "chunk_size"), (100, 60, "chunk_overlap")])
def test_impossible_sizes_are_refused_by_field(tokenizer: Any, size: int, overlap: int, field: str) -> None:
    with pytest.raises(SpecError) as caught:
        split(TEXT, tokenizer=tokenizer, size=size, overlap=overlap)
    assert caught.value.field == field
