"""The engine's process with its model in a vLLM server: answers, waiting, and what goes to a local engine."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from jobs import stream, stream_redis
from jobs.engine_config import config_from_settings
from jobs.engine_handover import handed_key
from jobs.engine_vllm import VllmConfig
from ml.backbone import load_backbone
from tests.jobs.redis_fixture import RedisChild, redis_child  # noqa: F401
from tests.jobs.test_engine_main import (
    Engines,
    answer_of,
    engines,  # noqa: F401
    ids_of,
    models,  # noqa: F401
    nothing_is_left_behind,
    request_of,
    text_of,
    wait_for,
)
from tests.ml.engine.vllm_stub import Stub, running_stub


@pytest.fixture
def stub(models: Path) -> Iterator[Stub]:  # noqa: F811
    model = load_backbone(models / "tiny-llama").model

    def next_logits(name: str, embeds: Tensor) -> Tensor:
        logits: Tensor = model(inputs_embeds=embeds[None]).logits[0, -1]
        return logits

    with running_stub(models / "tiny-llama", model.get_input_embeddings().weight.detach(), next_logits) as running:
        running.max_model_len = 256
        yield running


def devices() -> dict[str, str]:
    return {engine["device"]: engine["state"] for engine in stream.engines()}


def test_a_vllm_server_answers_as_the_model_itself_and_hands_over_what_it_cannot(
    engines: Engines,  # noqa: F811
    stub: Stub,
):
    engines.start("--vllm", stub.url)
    assert devices() == {"vllm": "ready"} and stream.engines()[0]["length"] == 256
    remote, scored = request_of(max_tokens=20), request_of(max_tokens=4, choices=["red", "blue"])
    stream.submit([remote])
    events = answer_of(remote)
    assert [event["event"] for event in events][:2] == ["queued", "start"] and events[-1]["event"] == "done"
    stream.submit([scored])
    refusal = answer_of(scored)[-1]["error"]
    assert refusal["code"] == "stays_local" and "ENGINE_VLLM_URL" in refusal["hint"] and not refusal["permanent"]
    n_asked = len(stub.bodies)

    local = engines.start()
    group: list[stream.GenerateRequest] = []
    note = handed_key(next(engine["id"] for engine in stream.engines() if engine["device"] == "cpu"))

    def is_one_handed_over() -> bool:
        group.append(request_of(max_tokens=4, choices=["red", "blue"]))
        stream.submit(group[-1:])
        return bool(stream_redis.client().exists(note))

    local.send_signal(signal.SIGSTOP)  # so that the other engine is the one that takes them
    wait_for(is_one_handed_over, engines)
    local.send_signal(signal.SIGCONT)
    for request in group:
        done = answer_of(request)[-1]
        assert done["event"] == "done" and len(done["scores"]) == 2
    assert len(stub.bodies) == n_asked
    same = [request_of(max_tokens=20) for _ in range(6)]
    stream.submit(same)
    assert {text_of(answer_of(request)) for request in same} == {text_of(events)} and len(ids_of(events)) == 20
    wait_for(nothing_is_left_behind, engines)


def test_an_engine_waits_for_its_server_and_refuses_another_model(engines: Engines, stub: Stub):  # noqa: F811
    stub.key = "not yet"
    process = engines.start("--vllm", stub.url, ready=False)
    wait_for(lambda: devices().get("vllm") == "waiting for vLLM", engines)
    stub.key, stub.name, stub.root = "", "other-7b", "/models/other-7b"
    assert process.wait(timeout=60) == 69
    assert "serves other-7b; this engine is for tiny-llama" in engines.logs()


def test_an_address_in_the_settings_makes_it_such_an_engine(settings: Any):
    assert config_from_settings().vllm is None
    settings.ENGINE_VLLM_URL, settings.ENGINE_VLLM_KEY = "http://10.0.0.5:8000", "k"
    settings.ENGINE_VLLM_LORAS, settings.ENGINE_VLLM_PUBLIC = "/mnt/artifacts", True
    wanted = VllmConfig(url="http://10.0.0.5:8000", key="k", loras="/mnt/artifacts", may_be_public=True)
    assert config_from_settings().vllm == wanted
