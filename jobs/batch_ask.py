"""`python -m jobs.batch_ask --workdir DIR`: puts a batch's requests to the engines and writes their answers.

DIR holds requests.jsonl (jobs/batch.py). What jobs/asking.py guarantees holds for every request: kept at once, never
lost, waited for; SIGTERM exits 75. A request that fails is answered with its error, like any other, and ends nothing.
Output, in the requests' order: out/output.jsonl, out/errors.jsonl (OpenAI's lines) and out/summary.json.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jobs import asking, stream
from jobs.asking import STOPPED, Emit, Stopped, read_kept
from jobs.asking_main import run_asking
from jobs.stream import GenerateRequest
from ml.errors import ColdframeError, NotFoundError, SpecError, UnavailableError
from webapp.replies import Answer, Reply, embedding_list, error_body

EMBED_S = 120.0
EMBEDDING_NAME = "minilm"


@dataclass(frozen=True, kw_only=True)
class Item:
    """A line of requests.jsonl: requests with a reply, or texts, or an error."""

    place: int
    custom_id: str
    requests: tuple[dict[str, Any], ...] = ()
    """Fields of GenerateRequests without their ids."""
    reply: dict[str, Any] | None = None
    """Fields of a Reply."""
    texts: tuple[str, ...] = ()
    encoding: str = "float"
    dimensions: int | None = None
    error: dict[str, Any] | None = None


class Asking(asking.Asking[Item]):
    """All requests of one batch."""

    def said(self) -> dict[str, Any]:
        return {"n_failed": sum(not is_good(line) for line in self.kept.values())}

    async def answer(self, item: Item) -> dict[str, Any]:
        request_id = f"rq_{stream.new_id()[:16]}"
        try:
            if item.error is not None:
                raise stream.error_from(item.error)
            body = await (self._embedded(item) if item.texts else self._written(item))
        except ColdframeError as error:
            return line_of(item, request_id, error.status, error_body(error, request_id))
        return line_of(item, request_id, 200, body)

    async def _embedded(self, item: Item) -> dict[str, Any]:
        found = await self.patiently(partial(stream.acall_service, "embed", {"texts": item.texts}, timeout_s=EMBED_S))
        n = len(found["vectors"][0])
        if item.dimensions not in (None, n):
            raise SpecError(f"dimensions may only be {n}, got {item.dimensions}.", field="dimensions")
        return embedding_list(found, model=EMBEDDING_NAME, encoding=item.encoding)

    async def _written(self, item: Item) -> dict[str, Any]:
        tasks = [
            asyncio.create_task(self.patiently(partial(self._followed, place, fields)))
            for place, fields in enumerate(item.requests)
        ]
        try:
            answers = list(await asyncio.gather(*tasks))
        finally:
            await stream.end_tasks(tasks)
        reply = item.reply or {}
        start = "chatcmpl" if reply.get("kind") == "chat" else "cmpl"
        return Reply(id=f"{start}-{stream.new_id()}", answers=answers, **reply).whole()

    async def _followed(self, place: int, fields: dict[str, Any]) -> Answer:
        request, answer = GenerateRequest(**fields), Answer(index=place)
        with self.under_way(request.id):
            await stream.asubmit([request])
            try:
                async for _, event in stream.events(request.id):
                    if event["event"] == "waiting":
                        self.on_wait(event["engines"])
                    if event["event"] == "error":
                        raise stream.error_from(event["error"])
                    answer.take(event)
            except NotFoundError as error:
                raise UnavailableError("Redis lost its memory, and the answer with it.") from error
        if answer.done.get("finish_reason") == "cancelled":
            raise UnavailableError("The answer was cancelled.", code="engine_lost")
        return answer


def line_of(item: Item, request_id: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
    response = {"status_code": status, "request_id": request_id, "body": body}
    return {
        "place": item.place, "id": f"batch_req_{stream.new_id()}", "custom_id": item.custom_id, "response": response,
        "error": None,
    }  # fmt: skip


def is_good(line: dict[str, Any]) -> bool:
    return bool(line["response"]["status_code"] == 200)


def read_items(path: Path) -> list[Item]:
    with path.open(encoding="utf-8") as file:
        return [_item(json.loads(row)) for row in file]


def _item(row: dict[str, Any]) -> Item:
    lists: dict[str, Any] = {name: tuple(row[name]) for name in ("requests", "texts") if name in row}
    return Item(**{**row, **lists})


def answered(workdir: Path) -> list[dict[str, Any]]:
    """What is kept so far, in the requests' order."""
    return [line for _, line in sorted(read_kept(workdir / "answers.jsonl").items())]


def write_results(out: Path, lines: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Writes both files and the summary, and returns it."""
    out.mkdir(exist_ok=True)
    counts = {"n_done": 0, "n_failed": 0}
    with (out / "output.jsonl").open("w", encoding="utf-8") as good, (out / "errors.jsonl").open("w") as bad:
        for line in lines:
            told = json.dumps({key: value for key, value in line.items() if key != "place"}, ensure_ascii=False)
            (good if is_good(line) else bad).write(told + "\n")
            counts["n_done" if is_good(line) else "n_failed"] += 1
    (out / "summary.json").write_text(json.dumps(counts), encoding="utf-8")
    return counts


def ask(workdir: Path, emit: Emit) -> int:
    began = time.monotonic()
    found = Asking(workdir, read_items(workdir / "requests.jsonl"), emit)
    emit("phase", text="Asking the engine")
    try:
        asyncio.run(found.run())
    except Stopped:
        emit("stopped", step=len(found.kept))
        return STOPPED
    counts = write_results(workdir / "out", (found.kept[item.place] for item in found.items))
    seconds = round(time.monotonic() - began, 1)
    emit("finished", metrics=counts, seconds=seconds, out=str(workdir / "out"))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return run_asking(argv, ask, module="jobs.batch_ask", about=__doc__, what="the batch")


if __name__ == "__main__":
    sys.exit(main())
