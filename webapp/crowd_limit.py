"""Stops requests beyond what one web process can carry at once, open streams included.

Guarantee: those under way go on undisturbed; one too many is told so at once, with the time after which to try again.
Whoever asks about health or figures is always answered: a full house is not a broken one. Connections that ask for
nothing are not counted; they cost a file each, of which `make up` allows as many as the system does.
"""

from __future__ import annotations

from webapp.body_limit import App, Message, Receive, Send, refuse

ALWAYS = ("/healthz", "/metrics")
RETRY_AFTER_S = 5


class CrowdLimit:
    """ASGI middleware around everything else."""

    def __init__(self, app: App, *, limit: int) -> None:
        self.app, self.limit = app, limit
        self.n_under_way = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS:
            await self.app(scope, receive, send)
            return
        if self.n_under_way >= self.limit:
            message = f"{self.n_under_way} requests are under way here, the most there may be."
            hint = "Try again in some seconds; WEB_REQUESTS allows more."
            await refuse(scope, send, 503, message, hint, retry_after_s=RETRY_AFTER_S)
            return
        self.n_under_way += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.n_under_way -= 1
