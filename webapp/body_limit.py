"""Stops request bodies that are too large or too slow before anything is made of them.

Guarantees: a declared length over the limit is answered with 413 without reading the body; an undeclared one is counted
and cut off at the limit; a body that pauses for longer than `idle_s` is answered with 408. Django spools what passes to
disk, so memory stays flat. Only bodies are timed: open streams may last.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ml.errors import ColdframeError
from webapp.replies import error_body

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

OVERHEAD_BYTES = 1024 * 1024
"""What a form may weigh beside its file."""
IDLE_S = 60.0
CODES = {408: "body_too_slow", 413: "body_too_large", 503: "queue_full"}


class BodyLimit:
    """ASGI middleware around Django."""

    def __init__(self, app: App, *, limit_bytes: int, idle_s: float = IDLE_S) -> None:
        self.app, self.limit_bytes, self.idle_s = app, limit_bytes, idle_s

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope.get("headers", []))
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit():
            await refuse(scope, send, 400, "The request's length makes no sense.", "")
        elif int(declared) > self.limit_bytes + OVERHEAD_BYTES:
            await self._too_large(scope, send)
        else:
            await self._watched(scope, receive, send)

    async def _watched(self, scope: Message, receive: Receive, send: Send) -> None:
        n_bytes, is_whole, refused, has_begun = 0, False, 0, False

        async def counted() -> Message:
            nonlocal n_bytes, is_whole, refused
            if is_whole or refused:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self.idle_s)
            except TimeoutError:
                refused = 408
                return {"type": "http.disconnect"}
            n_bytes += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if n_bytes > self.limit_bytes + OVERHEAD_BYTES:
                refused = 413
                return {"type": "http.disconnect"}
            return message

        async def noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        await self.app(scope, counted, noted)
        if refused and not has_begun:
            if refused == 413:
                await self._too_large(scope, send)
            else:
                hint = "Nothing was kept. Try again."
                await refuse(scope, send, 408, f"Nothing came for {self.idle_s:.0f} s, so the upload was ended.", hint)

    async def _too_large(self, scope: Message, send: Send) -> None:
        message = f"The request is too large; uploads may have {self.limit_bytes // 1024**2} MB."
        await refuse(scope, send, 413, message, "Nothing was kept. Cut the file into several.")


async def refuse(
    scope: Message, send: Send, status: int, message: str, hint: str, *, retry_after_s: int | None = None
) -> None:
    """Answers before Django is asked, in the shape of the API where one is wanted."""
    wants_json = b"json" in dict(scope.get("headers", [])).get(b"accept", b"") or scope["path"].startswith("/v1/")
    request_id = f"rq_{uuid.uuid4().hex[:16]}"
    error = ColdframeError(message, hint=hint, status=status, code=CODES.get(status, "bad_request"))
    body = json.dumps(error_body(error, request_id)) if wants_json else f"{message} {hint}\n"
    kind = b"application/json" if wants_json else b"text/plain; charset=utf-8"
    headers = [
        (b"content-type", kind),
        (b"connection", b"close"),
        (b"x-request-id", request_id.encode()),
        (b"content-length", str(len(body.encode())).encode()),
        *([(b"retry-after", str(retry_after_s).encode())] if retry_after_s else []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})
