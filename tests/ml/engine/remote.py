"""The two engines behind one interface, for tests: the one that holds the model, and the one that asks a vLLM stub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ml.engine.desk import Desk
from ml.engine.types import Event, Request
from ml.vllm.address import address_of
from ml.vllm.base import load_base
from ml.vllm.client import Client
from ml.vllm.engine import VllmEngine
from ml.vllm.server import Server
from tests.ml.engine.conftest import InlineExecutor, Outcome, Zoo
from tests.ml.engine.vllm_stub import NextLogits, Stub


def next_logits_of(zoo: Zoo) -> NextLogits:
    """The plain model's logits, or those of the LoRA that the name is the sha256 of."""
    kinds = {sha: kind for kind, sha in zoo.shas.items() if sha}

    def next_logits(name: str, embeds: Tensor) -> Tensor:
        model = zoo.models[kinds.get(name, "plain")]
        given = embeds[None]
        logits: Tensor = model(inputs_embeds=given, attention_mask=torch.ones(given.shape[:2])).logits[0, -1]
        return logits

    return next_logits


def server_of(stub: Stub, *, base: str = "tiny-llama", loras: str = "") -> Server:
    return Server(Client(address_of(stub.url), key=stub.key), base=base, loras=loras)


def vllm_engine(stub: Stub, zoo: Zoo, folder: Path, *, loras: str = "", **changes: Any) -> VllmEngine:
    server = server_of(stub, loras=loras)
    server.check()
    values: dict[str, Any] = {"artifact_folder": lambda sha: zoo.folder / sha, "n_slots": 4, "length": 128,
                              "executor": InlineExecutor()}  # fmt: skip
    return VllmEngine(load_base(folder), server, **{**values, **changes})


def run_to_end(engine: Any, requests: Sequence[Request] = ()) -> Outcome:
    """As the engine's process does it: wait, then step, until nothing is left to do."""
    for request in requests:
        engine.submit(request)
    return Outcome(steps_until(engine, lambda events: engine.is_idle))


def steps_until(engine: Any, is_over: Any) -> list[Event]:
    assert isinstance(engine, Desk)
    events: list[Event] = []
    for _ in range(2000):
        engine.wait(10)
        events += engine.step()
        if is_over(events):
            return events
    raise AssertionError(f"the engine did not come to an end: {engine.snapshot()}")
