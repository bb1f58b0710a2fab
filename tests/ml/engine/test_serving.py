"""What engines have in common, whether they hold the model or ask a vLLM server for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ml.engine.engine import Engine
from ml.engine.serving import Serving
from ml.engine.types import Done, Started, Token
from ml.errors import ArtifactError, BusyError, ContextTooLongError, SpecError
from tests.ml.engine.conftest import Zoo, request_of
from tests.ml.engine.remote import next_logits_of, run_to_end, steps_until, vllm_engine
from tests.ml.engine.vllm_stub import running_stub

PROMPT = (5, 40, 7, 99, 23)


@pytest.fixture(params=["local", "vllm"])
def make(
    request: pytest.FixtureRequest, zoo: Zoo, tiny_llama_dir: Path, make_engine: Callable[..., Engine]
) -> Iterator[Callable[..., Any]]:
    if request.param == "local":
        yield make_engine
        return
    matrix = zoo.backbone.model.get_input_embeddings().weight.detach()
    with running_stub(tiny_llama_dir, matrix, next_logits_of(zoo)) as stub:
        yield lambda **changes: vllm_engine(stub, zoo, tiny_llama_dir, **changes)


def test_an_engine_is_all_that_the_processes_around_it_use(make: Callable[..., Any]) -> None:
    engine: Serving = make()
    assert engine.backbone.name == "tiny-llama" and len(engine.backbone.fingerprint) == 64
    assert engine.scheduler.length == 128 and engine.resident() == []
    shot = engine.snapshot()
    assert (shot.slots, shot.length, shot.queue, shot.rows) == (4, 128, 0, [])
    assert engine.meter.tokens_per_s == 0.0 and engine.meter.step_ms == 0.0


@pytest.mark.parametrize("kind", ["plain", "lora", "prompt_tuning", "p_tuning"])
def test_an_answer_is_what_peft_itself_would_say(kind: str, make: Callable[..., Any], zoo: Zoo) -> None:
    engine = make()
    outcome = run_to_end(engine, [request_of(zoo, kind, PROMPT)])
    expected = zoo.greedy(kind, PROMPT, 6, set(engine.backbone.stop_ids if "stop_ids" in vars(engine.backbone)
                                               else engine.stop_ids))  # fmt: skip
    assert outcome.ids(kind) == expected
    started, done = outcome.events[0], outcome.done(kind)
    assert isinstance(started, Started) and started.prompt_tokens == len(PROMPT)
    assert started.prefix_tokens == {"prompt_tuning": 7, "p_tuning": 5}.get(kind, 0)
    assert done.text == engine.backbone.tokenizer.decode(expected) and done.completion_tokens == len(expected)
    assert "".join(token.text for token in outcome.tokens(kind)) + done.tail == done.text
    assert [token.n for token in outcome.tokens(kind)] == list(range(1, len(expected) + 1))
    assert done.finish_reason == ("length" if len(expected) == 6 else "stop")


def test_many_tasks_at_once_answer_as_each_would_alone(make: Callable[..., Any], zoo: Zoo) -> None:
    kinds = ["plain", "lora", "lora_other", "prompt_tuning", "p_tuning", "prompt_tuning_short"]
    alone = {kind: run_to_end(make(), [request_of(zoo, kind, PROMPT)]).ids(kind) for kind in kinds}
    engine = make(n_slots=3)
    outcome = run_to_end(engine, [request_of(zoo, kind, PROMPT) for kind in kinds])
    assert {kind: outcome.ids(kind) for kind in kinds} == alone
    assert engine.snapshot().rows == [] and {r["form"] for r in engine.resident()} == {"lora_delta", "prefix_kv"}
    assert {form: sums["n"] for form, sums in engine.resident_by_form().items()} == {"lora_delta": 2, "prefix_kv": 3}
    assert engine.snapshot().totals["tokens"] >= sum(map(len, alone.values()))


def test_pinned_tasks_are_there_before_they_are_asked_for(make: Callable[..., Any], zoo: Zoo) -> None:
    engine, shas = make(), [zoo.shas[kind] for kind in ("lora", "prompt_tuning")]
    engine.pin(shas)
    assert {r["artifact"]: r["pinned"] for r in engine.resident()} == dict.fromkeys(shas, True)
    engine.pin(shas[:1])
    assert {r["artifact"]: r["pinned"] for r in engine.resident()} == {shas[0]: True, shas[1]: False}


def test_an_answer_that_another_engine_began_goes_on_after_its_tokens(make: Callable[..., Any], zoo: Zoo) -> None:
    whole = run_to_end(make(), [request_of(zoo, "lora", PROMPT, max_tokens=8)]).ids("lora")
    rest = replace(request_of(zoo, "lora", PROMPT, max_tokens=8), emitted=tuple(whole[:3]))
    outcome = run_to_end(make(), [rest])
    assert outcome.ids("lora") == whole[3:] and outcome.done("lora").completion_tokens == len(whole)
    assert outcome.tokens("lora")[0].n == 4


def test_an_answer_that_was_over_already_ends_without_another_token(make: Callable[..., Any], zoo: Zoo) -> None:
    outcome = run_to_end(make(), [replace(request_of(zoo, "plain", PROMPT, max_tokens=3), emitted=(50, 51, 52))])
    assert outcome.done("plain").finish_reason == "length" and outcome.tokens("plain") == []


def test_a_stop_string_ends_the_answer_and_is_not_shown(make: Callable[..., Any], zoo: Zoo) -> None:
    text = run_to_end(make(), [request_of(zoo, "plain", PROMPT, max_tokens=8)]).done("plain").text
    stop = text[3:6]
    outcome = run_to_end(make(), [request_of(zoo, "plain", PROMPT, max_tokens=8, stop=(stop,))])
    done = outcome.done("plain")
    assert done.text == text[: text.index(stop)] and done.finish_reason == "stop"
    assert stop not in "".join(token.text for token in outcome.tokens("plain")) + done.tail


def test_log_probabilities_are_the_model_s_own(make: Callable[..., Any], zoo: Zoo) -> None:
    outcome = run_to_end(make(), [request_of(zoo, "plain", PROMPT, max_tokens=2, n_logprobs=3)])
    told = outcome.tokens("plain")[0].logprobs
    wanted = torch.topk(zoo.logits("plain", PROMPT).log_softmax(-1), 3).values.tolist()
    assert told is not None and math.isclose(told["logprob"], wanted[0], abs_tol=1e-4)
    assert [round(top["logprob"], 3) for top in told["top_logprobs"]] == [round(value, 3) for value in wanted]
    assert set(told) == {"token", "logprob", "bytes", "top_logprobs"} == set(told["top_logprobs"][0]) | {"top_logprobs"}


def test_a_cancelled_answer_ends_and_leaves_its_slot(make: Callable[..., Any], zoo: Zoo) -> None:
    engine = make()
    engine.submit(request_of(zoo, "plain", PROMPT, max_tokens=100))
    events = steps_until(engine, lambda events: any(isinstance(event, Token) for event in events))
    engine.cancel("plain")
    events += steps_until(engine, lambda events: any(isinstance(event, Done) for event in events))
    assert isinstance(events[-1], Done) and events[-1].finish_reason == "cancelled"
    assert engine.is_idle and engine.snapshot().rows == []


def test_an_answer_that_takes_too_long_fails_by_name(make: Callable[..., Any], zoo: Zoo) -> None:
    late = replace(request_of(zoo, "plain", PROMPT), deadline=time.monotonic() - 1)
    assert run_to_end(make(), [late]).failed("plain").error.code == "deadline"


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"prompt_ids": ()}, SpecError, "empty"),
        ({"prompt_ids": tuple(range(3, 130))}, ContextTooLongError, "128 fit"),
        ({"schema": '{"type": "nonsense"}'}, SpecError, "schema"),
    ],
)
def test_what_cannot_be_answered_is_refused_at_once(
    changes: dict[str, Any], error: type[Exception], words: str, make: Callable[..., Any], zoo: Zoo
) -> None:
    with pytest.raises(error, match=words):
        make().submit(replace(request_of(zoo, "plain", PROMPT), **changes))


def test_beyond_the_queue_requests_are_told_to_come_again(make: Callable[..., Any], zoo: Zoo) -> None:
    engine = make(queue_limit=1)
    engine.submit(request_of(zoo, "plain", PROMPT, name="a"))
    with pytest.raises(BusyError, match="queue is full"):
        engine.submit(request_of(zoo, "plain", PROMPT, name="b"))


def test_an_adapter_that_is_not_there_fails_its_own_rows_only(make: Callable[..., Any], zoo: Zoo) -> None:
    lost = replace(request_of(zoo, "plain", PROMPT, name="lost"), artifact="f" * 64)
    outcome = run_to_end(make(), [lost, request_of(zoo, "plain", PROMPT)])
    assert isinstance(outcome.failed("lost").error, ArtifactError) and outcome.done("plain")


def test_the_figures_of_rows_are_the_same(make: Callable[..., Any], zoo: Zoo) -> None:
    engine = make()
    engine.submit(request_of(zoo, "prompt_tuning", PROMPT, max_tokens=100))
    steps_until(engine, lambda events: any(isinstance(event, Token) for event in events))
    row = engine.snapshot().rows[0]
    engine.cancel("prompt_tuning")
    assert row["prefix_tokens"] == 7 and row["form"] == "prefix_kv" and row["n_tokens"] >= 1
    assert row["capacity"] == 7 + len(PROMPT) + 100 and row["position"] >= 7 + len(PROMPT)
    assert {"id", "label", "team_id", "state", "slot"} <= set(row)
    run_to_end(engine)
    assert {field.name for field in fields(Done)} >= {"slot_ms", "first_token_ms"}
