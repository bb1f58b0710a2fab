"""What documents have for the test rows of a study of `bench/study.py`, by the product's own cutting and embedding.

Search is exact here; in the app an engine asks Chroma, with a collection's own settings, which are the same by default.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml.retrieval.chunk import split
from ml.retrieval.embed import load_embedder
from ml.study.passages import passages_file

SIZE, OVERLAP, TOP_K, THRESHOLD = 160, 32, 3, 0.25
"""A new collection's."""
EMBEDDER = "minilm-l6"
REFUSAL = "The documents in this collection do not answer that question."


def find_passages(corpus: Path, questions: Sequence[str], *, models: Path, name: str) -> dict[str, Any]:
    """passages.json's content. `corpus`: JSONL of documents with title and text."""
    embedder = load_embedder(models, EMBEDDER)
    documents = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines() if line.strip()]
    chunks = [
        (str(document["title"]), chunk.text)
        for document in documents
        for chunk in split(document["text"], tokenizer=embedder.tokenizer, size=SIZE, overlap=OVERLAP)
    ]
    vectors = embedder.embed([text for _, text in chunks])
    scores = embedder.embed(questions) @ vectors.T  # [questions, chunks]
    found = {
        question: [
            {"chunk_id": place, "title": chunks[place][0], "page": None, "text": chunks[place][1],
             "score": round(float(row[place]), 4)}
            for place in row.argsort()[::-1][:TOP_K] if row[place] >= THRESHOLD
        ]
        for question, row in zip(questions, scores, strict=True)
    }  # fmt: skip
    about = {"collection": name, "top_k": TOP_K, "threshold": THRESHOLD, "embedder": EMBEDDER}
    return passages_file(about, refusal=REFUSAL, found=found)
