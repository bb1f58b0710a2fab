"""What is in production is pinned in the engine: looked up now and then, by the base model that it serves."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from jobs.engine_pins import Pins


class FakeEngine:
    backbone = SimpleNamespace(fingerprint="b" * 64)

    def __init__(self) -> None:
        self.pinned: list[list[str]] = []

    def pin(self, artifacts: list[str]) -> None:
        self.pinned.append(artifacts)


def test_what_is_in_production_is_pinned_once_for_each_change() -> None:
    engine, answers = FakeEngine(), iter([["x"], ["x"], ["y", "x"]])
    pins = Pins(engine, lambda fingerprint: next(answers) if fingerprint == "b" * 64 else [])
    for _ in range(3):
        pins.look()
    assert engine.pinned == [["x"], ["y", "x"]]


def test_a_database_that_fails_changes_nothing_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    engine, answers = FakeEngine(), iter([["x"], None, None, ["z"]])

    def find(_: str) -> list[str]:
        if (found := next(answers)) is None:
            raise OSError("database is locked")
        return found

    pins = Pins(engine, find)
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            pins.look()
    assert engine.pinned == [["x"], ["z"]] and caplog.text.count("database is locked") == 1
