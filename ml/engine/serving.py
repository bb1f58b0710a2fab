"""What the processes around an engine use of it. `ml.engine.engine` and `ml.vllm.engine` are the two that there are.

No torch. Guarantee: whatever is not here, `jobs` does not touch, so that one engine can stand in for the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from ml.engine.snapshot import Snapshot
from ml.engine.types import Event, Request

if TYPE_CHECKING:
    from ml.engine.adapters import Adapter


class Base(Protocol):
    """The frozen model as far as requests and adapters need to know it."""

    @property
    def name(self) -> str: ...
    @property
    def tokenizer(self) -> Any: ...
    @property
    def fingerprint(self) -> str: ...


class Room(Protocol):
    @property
    def length(self) -> int:
        """Positions of a row: prefix, prompt and answer together."""


class Store(Protocol):
    def fetch(self, artifact: str) -> Future[Adapter]:
        """The adapter, or its loading under way. Any thread."""


class Speed(Protocol):
    @property
    def step_ms(self) -> float: ...
    @property
    def tokens_per_s(self) -> float: ...


class Serving(Protocol):
    """One thread calls `step` and `wait`; any thread the rest."""

    @property
    def backbone(self) -> Base: ...
    @property
    def scheduler(self) -> Room: ...
    @property
    def adapters(self) -> Store: ...
    @property
    def meter(self) -> Speed: ...

    def submit(self, request: Request) -> None:
        """Raises BusyError, ContextTooLongError, SpecError or StaysLocalError; whatever goes wrong later is a Failed
        event."""

    def cancel(self, request_id: str) -> None:
        """The row ends with Done(finish_reason="cancelled") in the next step; an unknown id does nothing."""

    def step(self) -> list[Event]:
        """Does what there is to do and returns what happened, in order."""

    def wait(self, timeout_s: float) -> None:
        """Returns when there may be work, at the latest after `timeout_s`."""

    def pin(self, artifacts: Sequence[str]) -> None:
        """These tasks leave memory last, and are loaded before they are asked for, as long as they fit. Returns when
        that is done; no row waits for it. What is left out is pinned no longer."""

    def snapshot(self) -> Snapshot: ...

    def resident(self) -> list[dict[str, Any]]:
        """Adapters in memory that were used last: artifact, form, bytes, pinned."""

    def resident_by_form(self) -> dict[str, dict[str, int]]:
        """n and bytes of all of them."""
