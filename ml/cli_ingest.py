"""`python -m ml ingest SPEC.json --workdir DIR --models DIR`: read, cut and embed documents.

SPEC.json: {"kind": "ingest", "chunk": {"size", "overlap"}, "embedder", "documents": [{"id", "source_path",
"filename"}]}.
Writes DIR/out/<id>.json (text, pages, chunks, note; or error) for each document and DIR/out/vectors.safetensors (one
[n_chunks, D] float32 tensor per readable document, named by its id). Guarantees: a document that cannot be read never
stops the others; what is finished is kept when the process is stopped or killed, and not done again by the next
attempt.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ml.errors import ColdframeError, SpecError
from ml.events import Emitter
from ml.retrieval.child import read_document
from ml.retrieval.chunk import check_sizes, split
from ml.retrieval.parse import kind_of

STOPPED = 75
VECTORS = "vectors.safetensors"

logger = logging.getLogger(__name__)


class _StopError(Exception):
    """SIGTERM came; finished documents are on disk."""


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    raise _StopError


@dataclass(frozen=True, kw_only=True)
class Source:
    """One document to read."""

    id: int
    path: Path
    filename: str


@dataclass(frozen=True, kw_only=True)
class IngestSpec:
    """What is to be done, checked."""

    size: int
    overlap: int
    embedder: str
    sources: tuple[Source, ...]


def _source(given: Any) -> Source:
    if not isinstance(given, dict):
        raise SpecError(f"A document must be an object, got {given!r}.", field="documents")
    number, path, filename = given.get("id"), given.get("source_path"), given.get("filename")
    if not isinstance(number, int) or not isinstance(path, str) or not isinstance(filename, str):
        raise SpecError(f"A document needs id, source_path and filename, got {given!r}.", field="documents")
    return Source(id=number, path=Path(path), filename=filename)


def ingest_spec(given: Any) -> IngestSpec:
    """A checked IngestSpec. Raises SpecError naming the field."""
    if not isinstance(given, dict):
        raise SpecError(f"A spec must be an object, got {type(given).__name__}.")
    unknown = sorted(set(given) - {"kind", "collection_id", "chunk", "embedder", "documents"})
    if unknown:
        raise SpecError(f"Unknown keys in the spec: {', '.join(unknown)}.", field=unknown[0])
    chunk, documents = given.get("chunk"), given.get("documents")
    if not isinstance(chunk, dict) or not all(isinstance(chunk.get(k), int) for k in ("size", "overlap")):
        raise SpecError(f"chunk needs size and overlap as whole numbers, got {chunk!r}.", field="chunk")
    if not isinstance(documents, list):
        raise SpecError(f"documents must be a list, got {documents!r}.", field="documents")
    if not isinstance(given.get("embedder"), str):
        raise SpecError(f"The spec needs embedder as text, got {given.get('embedder')!r}.", field="embedder")
    check_sizes(chunk["size"], chunk["overlap"])
    return IngestSpec(
        size=chunk["size"], overlap=chunk["overlap"], embedder=given["embedder"],
        sources=tuple(_source(document) for document in documents),
    )  # fmt: skip


def _write(path: Path, value: Any) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    draft.replace(path)


def _ingest_one(
    source: Source, spec: IngestSpec, embedder: Any, parts: Path, emit: Emitter, *, done: int
) -> dict[str, Any]:
    """Text, pages and chunks of one document; its vectors are in `parts`. Raises DataError when it cannot be read."""
    from safetensors.numpy import save_file

    emit("document", id=source.id, state="reading", n_chunks=0, error=None)
    parsed = read_document(source.path, filename=source.filename)
    chunks = split(
        parsed.text, tokenizer=embedder.tokenizer, size=spec.size, overlap=spec.overlap, pages=parsed.pages,
        is_markdown=kind_of(source.filename) == "markdown",
    )  # fmt: skip

    def on_batch(n_embedded: int) -> None:
        text = f"{source.filename}: {n_embedded} of {len(chunks)} chunks embedded"
        emit("progress", done=done, total=len(spec.sources), text=text)

    vectors = embedder.embed([chunk.text for chunk in chunks], on_batch=on_batch)
    draft = parts / f"{source.id}.draft"
    save_file({str(source.id): vectors}, draft)
    os.replace(draft, parts / f"{source.id}.safetensors")
    return {
        "text": parsed.text, "pages": parsed.pages, "note": parsed.note, "chunks": [asdict(chunk) for chunk in chunks]
    }  # fmt: skip


def _ingest_all(spec: IngestSpec, embedder: Any, out: Path, parts: Path, emit: Emitter) -> tuple[int, int, int]:
    """Numbers of documents read, documents refused and chunks."""
    n_read = n_refused = n_chunks = 0
    for done, source in enumerate(spec.sources):
        emit("progress", done=done, total=len(spec.sources), text=source.filename)
        path = out / f"{source.id}.json"
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
        else:
            try:
                found = _ingest_one(source, spec, embedder, parts, emit, done=done)
            except ColdframeError as error:
                logger.info("document %s refused: %s", source.id, error.code)
                found = {"error": error.as_dict()}
            _write(path, found)
        problem, n_own = found.get("error"), len(found.get("chunks", ()))
        n_refused, n_read, n_chunks = n_refused + bool(problem), n_read + (not problem), n_chunks + n_own
        emit("document", id=source.id, state="refused" if problem else "live", n_chunks=n_own, error=problem)
    emit("progress", done=len(spec.sources), total=len(spec.sources), text="")
    return n_read, n_refused, n_chunks


def _gather(parts: Path, out: Path) -> None:
    """All vectors in one file; written last, whole or not at all."""
    from safetensors.numpy import load_file, save_file

    tensors: dict[str, Any] = {}
    for part in sorted(parts.glob("*.safetensors")):
        tensors |= load_file(part)
    save_file(tensors, out / "vectors.draft")
    os.replace(out / "vectors.draft", out / VECTORS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", type=Path, help="the run's spec.json, with source_path in every document")
    parser.add_argument("--workdir", type=Path, required=True, help="folder for out/ and what is kept between attempts")
    parser.add_argument("--models", type=Path, required=True, help="the models folder")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 means all cores")


def _device(asked: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked


def run(args: argparse.Namespace) -> int:
    emit: Emitter = args.emit
    try:
        spec = ingest_spec(json.loads(args.spec.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SpecError(f"The spec {args.spec} cannot be read: {error}.") from error
    began = time.monotonic()
    out, parts = args.workdir / "out", args.workdir / "parts"
    out.mkdir(parents=True, exist_ok=True)
    parts.mkdir(exist_ok=True)
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        emit("phase", text="Loading the embedding model")
        import torch

        from ml.retrieval.embed import load_embedder

        if args.threads > 0:
            torch.set_num_threads(args.threads)
        embedder = load_embedder(args.models, spec.embedder, device=_device(args.device))
        check_sizes(spec.size, spec.overlap, max_size=embedder.max_tokens - 2)
        emit("phase", text="Reading and embedding")
        n_read, n_refused, n_chunks = _ingest_all(spec, embedder, out, parts, emit)
        _gather(parts, out)
    except _StopError:
        emit("stopped", step=len(list(out.glob("*.json"))))
        return STOPPED
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    metrics = {"n_documents": n_read, "n_refused": n_refused, "n_chunks": n_chunks}
    emit("finished", out=str(out), metrics=metrics, peak_bytes=peak, seconds=round(time.monotonic() - began, 3))
    return 0
