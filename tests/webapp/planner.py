"""Stands in for the engine that is asked what a run or a study will take."""

from __future__ import annotations

from typing import Any

import pytest


class Planner:
    def __init__(self, said: Any) -> None:
        self.engines: list[dict[str, Any]] = [{"id": "e"}]
        self.asked: list[dict[str, Any]] = []
        self.said = said

    def call(self, kind: str, payload: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        assert kind == "plan"
        self.asked.append(payload)
        if isinstance(self.said, Exception):
            raise self.said
        return dict(self.said)


def planner(monkeypatch: pytest.MonkeyPatch, module: str, said: Any) -> Planner:
    """Asked by `module` from now on."""
    made = Planner(said)
    monkeypatch.setattr(f"{module}.stream.engines", lambda: made.engines)
    monkeypatch.setattr(f"{module}.stream.call_service", made.call)
    return made
