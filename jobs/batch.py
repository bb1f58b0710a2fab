"""What a batch's child is given, and how its answers become files: the Django side of jobs/batch_ask.py.

Guarantees: a line is checked, and its name resolved, by the code of the routes; a name is resolved once a batch, when
it first begins, so that an alias moved meanwhile changes nothing; a file that is not one request a line fails the batch
with the line's number, and a request that is wrong fails alone. What a stopped batch has answered is published too.
"""

from __future__ import annotations

import json
import logging
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import transaction

from ml.errors import ColdframeError, NotFoundError, SpecError
from webapp.models import Batch, Run

MAX_LINES = 50_000
MAX_LINE_BYTES = 4 << 20
MAX_ID = 128
OVER_BADLY = (Run.State.FAILED, Run.State.CANCELLED)
KEYS = ("custom_id", "method", "url", "body")
Line = dict[str, Any]
Request = tuple[str, dict[str, Any]]
"""A line's own id and the body of its request."""
logger = logging.getLogger(__name__)


def extra_env() -> dict[str, str]:
    return {"REDIS_URL": str(settings.REDIS_URL)}


def _of(run: Run) -> Batch:
    found = Batch.objects.select_related("team", "input_file").filter(run=run).first()
    if found is None:
        raise NotFoundError(f"The batch of run {run.pk} is gone.")
    return found


def command(run: Run, folder: Path) -> list[str]:
    """Writes requests.jsonl, unless an earlier attempt has; returns the command line. Raises ColdframeError."""
    from webapp import storage

    if not (folder / "requests.jsonl").is_file():
        batch = _of(run)
        if batch.input_file is None:
            raise NotFoundError("The file of requests was deleted.", hint="Upload it again.", field="input_file_id")
        draft = folder / ".requests.jsonl"
        with draft.open("w", encoding="utf-8") as file:
            for place, line in enumerate(items_of(batch, storage.path_of(batch.input_file.storage_key))):
                file.write(json.dumps({"place": place, **line}, ensure_ascii=False) + "\n")
        draft.replace(folder / "requests.jsonl")
    return [sys.executable, "-m", "jobs.batch_ask", "--workdir", str(folder)]


def items_of(batch: Batch, path: Path) -> Iterator[Line]:
    """One item a line: what its request asks of the engines, or its refusal. Raises SpecError for the whole batch."""
    prepared = _preparer(batch)
    for custom_id, body in lines_of(path, batch.endpoint):
        try:
            item = prepared(body)
        except ColdframeError as error:
            item = {"error": error.as_dict()}
        yield {"custom_id": custom_id, **item}


def lines_of(path: Path, endpoint: str) -> list[Request]:
    """The file's requests. Raises SpecError, naming the line, for what is not one of them a line."""
    found: dict[str, dict[str, Any]] = {}
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            if len(raw) > MAX_LINE_BYTES or len(found) >= MAX_LINES:
                raise _bad(number, f"There may be {MAX_LINES:,} requests, of {MAX_LINE_BYTES >> 20} MB each.")
            custom_id, body = _request(number, raw, endpoint)
            if custom_id in found:
                raise _bad(number, f"The custom_id {custom_id[:60]!r} stands twice.")
            found[custom_id] = body
    if not found:
        raise SpecError("The file holds no requests.", hint="Write one JSON object a line.", field="input_file_id")
    return list(found.items())


def _bad(number: int, message: str) -> SpecError:
    return SpecError(f"Line {number}: {message}", hint="Mend the file, and upload it anew.", field=f"line {number}")


def _request(number: int, raw: bytes, endpoint: str) -> Request:
    try:
        line = json.loads(raw.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        raise _bad(number, "it is no JSON.") from None
    if not isinstance(line, dict) or set(line) != set(KEYS):
        raise _bad(number, f"it must be an object with {', '.join(KEYS)}, and nothing else.")
    custom_id = line["custom_id"]
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_ID:
        raise _bad(number, f"custom_id must be a text of 1 to {MAX_ID} characters, got {custom_id!r:.60}.")
    if line["method"] != "POST" or line["url"] != endpoint:
        raise _bad(number, f"method and url must be POST and {endpoint}, as those of the batch.")
    if not isinstance(line["body"], dict):
        raise _bad(number, f"body must be an object, got {line['body']!r:.60}.")
    return custom_id, line["body"]


def _preparer(batch: Batch) -> Callable[[Mapping[str, Any]], Line]:
    """From a body to an item, by the code of the routes. Raises ColdframeError."""
    from webapp.api import prepare
    from webapp.api.schemas import ChatRequest, CompletionRequest, EmbeddingRequest
    from webapp.selectors.targets import resolve

    find = lru_cache(maxsize=1000)(resolve)

    def written(prepared: prepare.Prepared) -> Line:
        reply = prepared.reply
        requests = [{k: v for k, v in asdict(request).items() if k != "id"} for request in prepared.requests]
        shape = {"model": reply.model, "kind": reply.kind, "n": reply.n, "n_logprobs": reply.n_logprobs,
                 "echo": list(reply.echo), "choices": list(reply.choices)}  # fmt: skip
        return {"requests": requests, "reply": shape}

    def chat(body: Mapping[str, Any]) -> Line:
        return written(prepare.chat(batch.team, _whole(prepare.parsed(ChatRequest, body)), find=find))

    def completion(body: Mapping[str, Any]) -> Line:
        return written(prepare.completion(batch.team, _whole(prepare.parsed(CompletionRequest, body)), find=find))

    def embedding(body: Mapping[str, Any]) -> Line:
        asked = prepare.parsed(EmbeddingRequest, body)
        texts = prepare.embedding(asked)
        return {"texts": texts, "encoding": asked.encoding_format, "dimensions": asked.dimensions}

    return {"/v1/chat/completions": chat, "/v1/completions": completion, "/v1/embeddings": embedding}[batch.endpoint]


def _whole(body: Any) -> Any:
    if body.stream:
        raise SpecError("A batch's answers are whole.", hint="Leave stream out.", field="stream")
    return body


def prepare_batch(run: Run, out: Path) -> tuple[str, dict[str, Any]]:
    """Puts the answers into the storage, under keys that follow from them; returns what the service is given."""
    from jobs.publish import sha256_of
    from webapp import storage

    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    files = {}
    for name in ("output", "errors"):
        path = out / f"{name}.jsonl"
        if not path.stat().st_size:
            continue
        key = uuid.uuid5(uuid.NAMESPACE_OID, f"{run.pk} {name} {sha256_of(path)}").hex
        with path.open("rb") as file:
            storage.put_file(file, f"files/{key}")
        files[name] = {"key": key, "bytes": path.stat().st_size}
    return "", {"files": files, "n_done": summary["n_done"], "n_failed": summary["n_failed"]}


def keep(run_id: int, folder: Path) -> None:
    """What a stopped or failed batch had answered becomes files too. Never raises: it is still in the run's folder."""
    from jobs.batch_ask import answered, write_results

    run = Run.objects.filter(pk=run_id, kind=Run.Kind.BATCH, state__in=OVER_BADLY).first()
    if run is None or not (folder / "answers.jsonl").is_file():
        return
    try:
        from webapp.services.batches import batch_publish

        write_results(folder / "out", answered(folder))
        _, values = prepare_batch(run, folder / "out")
        with transaction.atomic():
            if Run.objects.select_for_update().filter(pk=run.pk, fence=run.fence, state__in=OVER_BADLY).exists():
                batch_publish(run=run, out=folder / "out", **values)
    except (ColdframeError, OSError, DatabaseError) as error:
        logger.warning("what run %s had answered was not kept: %s", run_id, error)
