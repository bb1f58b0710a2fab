"""Thousands of requests of every form, with cancels, deadlines, broken and missing adapters: nothing stays behind."""

from __future__ import annotations

import gc
from collections import defaultdict
from dataclasses import replace
from random import Random

import psutil
import pytest
import torch

from ml.engine.engine import Engine
from ml.engine.types import Done, Failed, Request, Started
from tests.ml.engine.conftest import BROKEN, CONFIGS, HEADS, OWN, Zoo
from tests.ml.engine.scenarios import (
    MODES,
    N_TOKENS,
    TEXTS,
    Arrival,
    check_at_rest,
    check_books,
    give_up,
    request_for,
)  # fmt: skip
from tests.ml.engine.test_schedules import ROOM_FOR_ONE

N_TOGETHER = 24
MOST_BYTES_MORE = 24 << 20
"""By which the process may grow after a fifth of the soak: what allocators keep. A leaked slot cache has 64 KB, a
leaked adapter 30 KB: of every tenth request they would be 30 MB."""
MOST_TENSORS_MORE = 200
"""Of the thousands that adapters, models and beginnings in memory have: how many fit the budgets varies."""
_SHARED = ["plain", *HEADS, BROKEN, "missing", *(kind for kind in CONFIGS if kind not in OWN)]


def random_request(zoo: Zoo, random: Random, name: str) -> tuple[Request, str, int]:
    """The request, and how and after how many steps it is given up."""
    kind = random.choice(OWN) if random.random() < 0.03 else random.choice(_SHARED)
    arrival = Arrival(
        kind=kind if kind != "missing" else "plain", mode=random.choice(list(MODES)),
        text=random.randrange(len(TEXTS)), n_tokens=random.randint(1, N_TOKENS), team=random.randint(1, 3),
    )  # fmt: skip
    request = replace(request_for(zoo, arrival, name), label=f"task {random.randrange(40)}")
    if kind == "missing":
        request = replace(request, artifact="f" * 64)
    return request, random.choice(["", "", "", "cancel", "deadline"]), random.randint(0, 30)


class Soak:
    """An engine under load, and what it takes at rest."""

    def __init__(self, engine: Engine, zoo: Zoo) -> None:
        self.engine, self._zoo, self._random = engine, zoo, Random(3)
        self.n_given = 0
        self.n_ends: dict[str, int] = defaultdict(int)

    def serve(self, n_requests: int) -> tuple[int, int]:
        """Serves some more until nothing is left of them. Returns the tensors and the bytes of the process."""
        until, ends, now = self.n_given + n_requests, defaultdict(list), 0
        while self.n_given < until or not self.engine.is_idle:
            while self.n_given < until and len(self.engine._rows) + self.engine._inbox.qsize() < N_TOGETHER:
                request, how, after = random_request(self._zoo, self._random, str(self.n_given))
                self.engine.submit(request)
                ends[now + after].append((request.id, how))
                self.n_given += 1
            for name, how in ends.pop(now, ()):
                give_up(self.engine, name, how)
            for event in self.engine.step():
                self._count(event)
            now += 1
            if now % 50 == 0:
                check_books(self.engine)
        check_at_rest(self.engine)
        gc.collect()
        n_tensors = sum(type(found) in (torch.Tensor, torch.nn.Parameter) for found in gc.get_objects())
        return n_tensors, psutil.Process().memory_info().rss

    def _count(self, event: object) -> None:
        if isinstance(event, Done):
            self.n_ends[event.finish_reason] += 1
        elif isinstance(event, Failed):
            self.n_ends[event.error.code] += 1
        elif isinstance(event, Started):
            self.n_ends["started"] += 1


@pytest.fixture
def soak(broken_zoo, make_engine) -> Soak:
    engine = make_engine(
        n_slots=16,
        own_bytes=4 * ROOM_FOR_ONE,
        prefix_bytes=200_000,
        adapter_bytes=60_000,
        min_shared_tokens=12,
        is_traced=True,
    )
    engine.runner.traces.after = 1  # what is traced stays: in the first requests, not in later ones
    return Soak(engine, broken_zoo)


def check_flat(figures: list[tuple[int, int]]) -> None:
    first, *later = figures
    assert max(n_tensors for n_tensors, _ in later) <= first[0] + MOST_TENSORS_MORE, figures
    assert max(n_bytes for _, n_bytes in later) <= first[1] + MOST_BYTES_MORE, figures


def check_ends(soak: Soak) -> None:
    """Every request ended once, in each of the ways that there are."""
    counts = dict(soak.n_ends)
    counts.pop("started")
    assert sum(counts.values()) == soak.n_given, counts
    assert {"stop", "length", "cancelled", "deadline", "invalid_artifact", "invalid_model"} <= set(counts), counts


def test_some_hundred_requests_leave_nothing_behind(soak):
    soak.serve(150)
    check_flat([soak.serve(150) for _ in range(3)])
    check_ends(soak)


@pytest.mark.slow
def test_ten_thousand_requests_leave_nothing_behind_and_memory_stays_flat(soak):
    soak.serve(1000)
    figures = [soak.serve(1000) for _ in range(9)]
    print("tensors, MB after each thousand:", [(n, n_bytes >> 20) for n, n_bytes in figures])
    check_flat(figures)
    check_ends(soak)
    assert soak.n_given == 10_000
