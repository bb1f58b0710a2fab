"""A request that an engine has taken from the stream, and where it stands. Shared by the engine's threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.stream import GenerateRequest


@dataclass(eq=False, kw_only=True)
class Ticket:
    request: GenerateRequest
    entry_id: str
    """Of the requests stream; acknowledged when the answer is done."""
    ends_ms: int
    """Deadline on the wall clock."""
    attempt: int = 1
    """How often the request was delivered: more than once after an engine has died."""
    emitted: list[int] = field(default_factory=list)
    """Token ids that earlier engines have sent."""
    sources: list[dict[str, Any]] | None = None
    """What retrieval found; None when it was not done yet."""
    info: dict[str, Any] = field(default_factory=dict)
    """The start event; kept with the chat message."""
    text: str = ""
    """What earlier engines have sent, as text."""
    final: dict[str, Any] | None = None
    """The last event, when an earlier engine had sent it already."""
    n_sent: int = 0
    """Tokens sent so far, by all engines."""
    n_rows: int = 0
    """Live rows in the step of the last token."""
    is_cancelled: bool = False
    """Nobody wants the answer any more."""

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def deadline(self) -> float:
        """On time.monotonic()'s clock."""
        return time.monotonic() + self.ends_ms / 1000 - time.time()

    @classmethod
    def from_entry(cls, entry_id: str, fields: Mapping[str, str], *, attempt: int) -> Ticket:
        request = GenerateRequest.from_json(fields["d"])
        return cls(request=request, entry_id=entry_id, ends_ms=int(fields["ends_ms"]), attempt=attempt)


class Tickets:
    """The engine's unfinished requests by id. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_id: dict[str, Ticket] = {}

    def add(self, ticket: Ticket) -> bool:
        """False when this engine has it already."""
        with self._lock:
            if ticket.id in self._by_id:
                return False
            self._by_id[ticket.id] = ticket
            return True

    def get(self, request_id: str) -> Ticket | None:
        with self._lock:
            return self._by_id.get(request_id)

    def remove(self, request_id: str) -> None:
        with self._lock:
            self._by_id.pop(request_id, None)

    def all(self) -> list[Ticket]:
        with self._lock:
            return list(self._by_id.values())

    def ids(self) -> list[str]:
        with self._lock:
            return list(self._by_id)

    def __len__(self) -> int:
        with self._lock:
            return len(self._by_id)
