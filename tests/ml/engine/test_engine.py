"""The loop as its callers see it: events, ends, figures, taking an answer over."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import pytest

from ml.data.chat import prompt_ids
from ml.engine.types import Done, Started, Token
from tests.ml.engine.conftest import request_of, run


@pytest.fixture
def ids(zoo):
    return prompt_ids(zoo.backbone.tokenizer, [{"role": "user", "content": "My lights went out."}])


def test_the_events_of_an_answer_tell_its_whole_story(zoo, make_engine, ids):
    engine = make_engine()
    outcome = run(engine, [request_of(zoo, "prompt_tuning", ids, name="r")])
    started, *tokens, done = outcome.events
    assert started == Started(id="r", prompt_tokens=len(ids), prefix_tokens=7)
    assert isinstance(done, Done) and all(isinstance(token, Token) for token in tokens)
    assert done.text == "".join(token.text for token in tokens) + done.tail
    assert done.text == engine.backbone.tokenizer.decode(outcome.ids("r"))
    assert [token.n for token in tokens] == list(range(1, 7)) and done.completion_tokens == 6
    assert (done.first_step, done.last_step) == (tokens[0].step, tokens[-1].step)
    assert done.finish_reason == "length" and done.prompt_tokens == len(ids) and done.first_token_ms > 0


def test_rows_that_came_together_share_their_steps(zoo, make_engine, ids):
    outcome = run(make_engine(prefill_tokens=1000), [request_of(zoo, "plain", ids, name=name) for name in "abc"])
    steps = {name: [token.step for token in outcome.tokens(name)] for name in "abc"}
    assert steps["a"] == steps["b"] == steps["c"]
    assert {token.rows for name in "abc" for token in outcome.tokens(name)} == {3}


def test_an_end_of_turn_token_ends_the_answer_and_is_not_part_of_it(zoo, make_engine, ids):
    engine = make_engine()
    answer = zoo.greedy("plain", ids, 6, set())
    engine.stop_ids.clear()
    engine.stop_ids.add(answer[3])
    expected = answer[: answer.index(answer[3])]
    outcome = run(engine, [request_of(zoo, "plain", ids, name="r")])
    assert outcome.done("r").finish_reason == "stop" and outcome.ids("r") == expected


def test_a_stop_string_ends_the_answer_before_it(zoo, make_engine, ids):
    engine = make_engine()
    whole = run(engine, [request_of(zoo, "plain", ids, name="r", max_tokens=20)]).done("r").text
    stop = whole[5:8]
    done = run(engine, [request_of(zoo, "plain", ids, name="r", max_tokens=20, stop=(stop,))]).done("r")
    assert done.finish_reason == "stop" and done.text == whole[: whole.index(stop)]


def test_the_same_seed_gives_the_same_answer_in_any_company(zoo, make_engine, ids):
    settings = {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "seed": 4, "max_tokens": 15}
    alone = run(make_engine(), [request_of(zoo, "lora", ids, name="r", **settings)]).ids("r")
    company = [request_of(zoo, "plain", ids, name=str(n), temperature=1.0, seed=n) for n in range(5)]
    assert run(make_engine(), [*company, request_of(zoo, "lora", ids, name="r", **settings)]).ids("r") == alone
    other = run(make_engine(), [request_of(zoo, "lora", ids, name="r", **{**settings, "seed": 5})]).ids("r")
    assert other != alone


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_another_engine_goes_on_exactly_where_one_stopped(temperature, zoo, make_engine, ids):
    request = request_of(zoo, "prompt_tuning", ids, name="r", temperature=temperature, seed=3, max_tokens=12)
    whole = run(make_engine(), [request])
    answer = whole.ids("r")
    for n in range(len(answer) + 1):
        rest = run(make_engine(), [replace(request, emitted=tuple(answer[:n]))])
        assert rest.ids("r") == answer[n:]
        assert rest.done("r").text == whole.done("r").text
        assert rest.done("r").completion_tokens == len(answer)


def test_log_probabilities_are_the_models_own(zoo, make_engine, ids):
    outcome = run(make_engine(), [request_of(zoo, "plain", ids, name="r", n_logprobs=3, temperature=0.7)])
    first = outcome.tokens("r")[0]
    expected = zoo.logits("plain", ids).log_softmax(-1)
    assert first.logprobs is not None
    assert first.logprobs["logprob"] == pytest.approx(float(expected[first.ids[0]]), abs=1e-4)
    assert [t["logprob"] for t in first.logprobs["top_logprobs"]] == pytest.approx(expected.topk(3).values.tolist())


def test_a_row_whose_time_is_up_fails_and_frees_its_slot(zoo, make_engine, ids):
    engine = make_engine()
    request = replace(request_of(zoo, "plain", ids, name="r", max_tokens=50), deadline=time.monotonic() + 1000)
    engine.submit(request)
    for _ in range(5):
        engine.step()
    row = engine._rows["r"]
    row.request = replace(request, deadline=time.monotonic() - 1)
    outcome = run(engine)
    assert outcome.failed("r").error.code == "deadline" and not engine.scheduler.live


def test_a_slow_adapter_delays_only_its_own_row(zoo, make_engine, ids):
    release = threading.Event()

    def folder(sha):
        assert release.wait(30)
        return zoo.folder / sha

    engine = make_engine(artifact_folder=folder, executor=ThreadPoolExecutor(1))
    engine.submit(request_of(zoo, "lora", ids, name="slow"))
    engine.submit(request_of(zoo, "plain", ids, name="quick"))
    events = []
    while not any(isinstance(event, Done) for event in events):
        events += engine.step()
    assert {event.id for event in events} == {"quick"}
    assert engine.snapshot().queue == 1
    release.set()
    engine._rows["slow"].loading.result(30)
    assert run(engine).ids("slow") == zoo.greedy("lora", ids, 6, engine.stop_ids)


def test_adapters_beyond_the_budget_are_forgotten_and_loaded_again(zoo, make_engine, ids):
    engine = make_engine(adapter_bytes=1)
    for kind in ("lora", "prompt_tuning", "lora"):
        assert run(engine, [request_of(zoo, kind, ids)]).ids(kind) == zoo.greedy(kind, ids, 6, engine.stop_ids)
        assert [adapter.artifact for adapter in engine.adapters.resident()] == [zoo.shas[kind]]


def test_the_snapshot_describes_the_batch(zoo, make_engine, ids):
    engine = make_engine()
    for kind in ("prompt_tuning", "lora", "plain"):
        engine.submit(request_of(zoo, kind, ids, max_tokens=30))
    for _ in range(6):
        engine.step()
    shot = engine.snapshot()
    assert {row["form"] for row in shot.rows} == {"prefix_kv", "lora_delta", "plain"}
    row = next(row for row in shot.rows if row["label"] == "prompt_tuning")
    assert row["prefix_tokens"] == 7 and row["capacity"] == 7 + len(ids) + 30 and row["state"] == "decode"
    assert row["position"] == 7 + len(ids) + row["n_tokens"] - 1
    assert {a["artifact"] for a in engine.resident()} == {zoo.shas["prompt_tuning"], zoo.shas["lora"]}
    assert shot.slots == 4 and shot.step == engine.n_steps
    assert all(row["seconds"] >= 0 for row in shot.rows)


def test_totals_only_grow_and_count_every_token(zoo, make_engine, ids):
    engine, seen = make_engine(), []
    for kind in ("prompt_tuning", "plain", "lora"):
        engine.submit(request_of(zoo, kind, ids, max_tokens=6))
    events = []
    while not engine.is_idle:
        events += engine.step()
        seen.append(engine.snapshot().totals)
    assert all(before[name] <= after[name] for before, after in pairwise(seen) for name in after)
    stopped = sum(isinstance(event, Done) and event.finish_reason == "stop" for event in events)
    assert seen[-1]["tokens"] == sum(isinstance(event, Token) for event in events) + stopped
    assert seen[-1]["steps"] == engine.n_steps >= seen[-1]["decodes"] > 0 and seen[-1]["decode_s"] > 0


def test_what_is_resident_is_summed_by_form(zoo, make_engine, ids):
    """All of it, however many the heartbeat names; a model of its own counts once."""
    engine = make_engine()
    run(engine, [request_of(zoo, kind, ids) for kind in ("lora", "lora_other", "prompt_tuning", "full", "plain")])
    loras = [adapter.n_bytes for adapter in engine.adapters.resident() if adapter.form == "lora_delta"]
    found = engine.resident_by_form()
    assert {form: sums["n"] for form, sums in found.items()} == {"lora_delta": 2, "prefix_kv": 1, "own_backbone": 1}
    assert found["lora_delta"]["bytes"] == sum(loras) and found["own_backbone"]["bytes"] > 0


def test_waiting_ends_when_a_request_comes(zoo, make_engine, ids):
    engine = make_engine()
    threading.Timer(0.05, lambda: engine.submit(request_of(zoo, "plain", ids))).start()
    engine.wait(30)
    assert not engine.is_idle
