"""The training rows most like a question: few-shot examples that are chosen for each request (Liu et al. 2021, arXiv
2101.06804, section 3). In the engine's process, with its embedding model.

Vectors are computed once a data set version and kept in the storage under `vectors/<sha256>/<embedding model>`; the
last few stay in memory. Guarantees: only a data set of the team that asks is looked at, and only rows that
webapp.selectors.examples lets be examples. Computing goes in small pieces, so that questions of others are embedded in
between; a second question about the same rows waits for the first.
"""

from __future__ import annotations

import json
import logging
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.retrieve import MAX_QUERY_CHARACTERS, embed
from ml.errors import ColdframeError, NotFoundError
from ml.threads import helper_threads

_PIECE = 64
"""Texts embedded at once, about a second on two cores."""
_IN_MEMORY = 4
_lock = threading.Lock()
_kept: OrderedDict[str, Index] = OrderedDict()
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Index:
    vectors: NDArray[np.float32]
    """[n, D], rows of length one."""
    rows: list[dict[str, Any]]
    """question, answer, row; one a vector."""


def _build(version: Any, folder: Path) -> None:
    from safetensors.numpy import save_file

    from webapp.selectors.examples import pool

    examples = pool(version)
    began = time.monotonic()
    pieces = []
    for first in range(0, len(examples), _PIECE):
        texts = [example.question[:MAX_QUERY_CHARACTERS] for example in examples[first : first + _PIECE]]
        pieces.append(np.asarray(embed(texts), dtype=np.float32))
    vectors = np.concatenate(pieces) if pieces else np.zeros((0, 1), dtype=np.float32)
    save_file({"vectors": vectors}, folder / "vectors.safetensors")
    rows = [{"question": e.question, "answer": e.answer, "row": e.row} for e in examples]
    (folder / "rows.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    logger.info("%d vectors of dataset version %s in %.1f s", len(rows), version.pk, time.monotonic() - began)


def _index(version: Any) -> Index:
    from django.conf import settings
    from safetensors.numpy import load_file

    from webapp import storage

    key = f"vectors/{version.sha256}/{settings.EMBEDDING_MODEL}"
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
        if not storage.exists(key):
            with tempfile.TemporaryDirectory() as folder:
                _build(version, Path(folder))
                storage.put_folder(Path(folder), key)
        found = storage.path_of(key)
        rows = json.loads((found / "rows.json").read_text(encoding="utf-8"))
        _kept[key] = Index(vectors=load_file(found / "vectors.safetensors")["vectors"], rows=rows)
        while len(_kept) > _IN_MEMORY:
            _kept.popitem(last=False)
        return _kept[key]


def nearest(*, team_id: int, dataset_version_id: int, query: str, k: int) -> list[dict[str, Any]]:
    """The k rows most like `query`, the nearest last: {question, answer, row, score}. Raises NotFoundError."""
    from django.db import close_old_connections

    from webapp.models import DatasetVersion

    close_old_connections()
    version = DatasetVersion.objects.filter(team_id=team_id, pk=dataset_version_id).first()
    if version is None:
        raise NotFoundError(f"There is no dataset version {dataset_version_id} in this team.")
    index = _index(version)
    if not index.rows:
        return []
    scores = index.vectors @ np.asarray(embed([query[:MAX_QUERY_CHARACTERS]])[0], dtype=np.float32)  # [n]
    best = np.argsort(-scores, kind="stable")[:k][::-1]
    return [{**index.rows[i], "score": round(float(scores[i]), 4)} for i in best]


class NearestService:
    """Answers the service `nearest {team_id, dataset_version_id, query, k}` in a thread of its own: the first question
    about a data set may take a minute."""

    def __init__(self) -> None:
        self._pool = helper_threads(1, "nearest")

    def take(self, payload: dict[str, Any], ends_s: float, reply: Callable[[dict[str, Any]], None]) -> None:
        self._pool.submit(self._answer, payload, reply)

    def _answer(self, payload: dict[str, Any], reply: Callable[[dict[str, Any]], None]) -> None:
        try:
            reply({"rows": nearest(**payload)})
        except ColdframeError as error:
            reply({"error": error.as_dict()})
        except Exception as error:
            logger.exception("nearest failed")
            reply({"error": ColdframeError(f"nearest failed: {type(error).__name__}: {error}.").as_dict()})

    def stop(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
