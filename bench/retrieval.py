"""How often the right document is among the first k, with the product's own cutting and embedding.

    python bench/retrieval.py DATA [--models var/models] [--embedder minilm-l6] [--size 160] [--overlap 32] [--limit N]

DATA holds corpus.jsonl ({doc_id, title, text}) and queries.jsonl ({query, doc_id, passage}), as data/squad_rag does. A
document's score is that of its best chunk; search is exact (every chunk is compared). The last line is one JSON object.
Not measured here: Chroma's approximate search, and answers.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ml.retrieval.chunk import split  # noqa: E402
from ml.retrieval.embed import load_embedder  # noqa: E402

AT = (1, 5, 10)
THRESHOLDS = (0.2, 0.25, 0.3, 0.35, 0.4)


def rows_of(path: Path, limit: int) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return rows[:limit] if limit else rows


def ranks_of(
    scores: np.ndarray, owners: np.ndarray, gold: list[int], n_documents: int
) -> tuple[np.ndarray, np.ndarray]:
    """1-based rank of each query's document, and that document's score. scores: [queries, chunks]."""
    best = np.full((len(gold), n_documents), -1.0, dtype=np.float32)
    for chunk, owner in enumerate(owners):
        np.maximum(best[:, owner], scores[:, chunk], out=best[:, owner])
    own = best[np.arange(len(gold)), gold]
    return 1 + (best > own[:, None]).sum(axis=1), own


def measure(args: argparse.Namespace) -> dict[str, Any]:
    corpus, queries = rows_of(args.data / "corpus.jsonl", 0), rows_of(args.data / "queries.jsonl", args.limit)
    place = {row["doc_id"]: i for i, row in enumerate(corpus)}
    embedder = load_embedder(args.models, args.embedder)
    began = time.perf_counter()
    texts, owners, passages = [], [], []
    for i, row in enumerate(corpus):
        for chunk in split(row["text"], tokenizer=embedder.tokenizer, size=args.size, overlap=args.overlap):
            texts.append(chunk.text)
            owners.append(i)
    vectors = embedder.embed(texts)
    ingest_s = time.perf_counter() - began
    began = time.perf_counter()
    scores = embedder.embed([row["query"] for row in queries]) @ vectors.T
    query_s = time.perf_counter() - began
    gold = [place[row["doc_id"]] for row in queries]
    ranks, own = ranks_of(scores, np.array(owners), gold, len(corpus))
    for row, best in zip(queries, scores.argsort(axis=1)[:, ::-1][:, :5], strict=True):
        passages.append(any(row.get("passage", "\0") in texts[chunk] for chunk in best))
    return {
        "bench": "retrieval", "data": args.data.name, "method": "dense", "embedder": args.embedder,
        "chunk": {"size": args.size, "overlap": args.overlap}, "n_documents": len(corpus), "n_chunks": len(texts),
        "n_queries": len(queries), "recall": {str(k): round(float((ranks <= k).mean()), 4) for k in AT},
        "mrr": round(float((1 / ranks).mean()), 4), "passage_in_top_5_chunks": round(float(np.mean(passages)), 4),
        "gold_at_or_above": {str(t): round(float((own >= t).mean()), 4) for t in THRESHOLDS},
        "ingest_s": round(ingest_s, 1), "documents_per_s": round(len(corpus) / ingest_s, 2),
        "ms_per_query_batched": round(1000 * query_s / len(queries), 2),
        "machine": f"{platform.machine()}, {platform.python_implementation()} {platform.python_version()}",
        "versions": {name: version(name) for name in ("torch", "transformers", "semantic-text-splitter")},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", type=Path, default=ROOT / "var" / "models")
    parser.add_argument("--embedder", default="minilm-l6")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--overlap", type=int, default=32)
    parser.add_argument("--limit", type=int, default=0, help="measure only the first N queries; 0 means all")
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
