"""Any order of coming and going, any mix of forms, reused and poisoned slots: each row answers as it does alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ml.data.chat import prompt_ids
from ml.engine.types import Done, Event, Request, Started, Token
from ml.errors import ModelError
from tests.ml.engine.conftest import BROKEN, HEADS, InlineExecutor, Zoo, request_of, run
from tests.ml.engine.scenarios import (
    N_TOKENS,
    TEXTS,
    Arrival,
    LateExecutor,
    arrivals,
    check_at_rest,
    check_books,
    end_of,
    ids_in,
    play,
    poison,
    request_for,
)

ROOM_FOR_ONE = 400_000
"""Bytes: one of the tiny models of its own that share little with the frozen one, with four slots."""
EXAMPLES = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck),
                    phases=[Phase.explicit, Phase.generate])  # fmt: skip
"""A failing schedule is told as it was found: making it smaller takes minutes."""
MANY = settings(EXAMPLES, max_examples=1000)
schedules = {
    "given_arrivals": st.lists(arrivals, min_size=1, max_size=14),
    "n_slots": st.integers(1, 5),
    "prefill_tokens": st.sampled_from([2, 7, 30, 200]),
    "own_bytes": st.sampled_from([ROOM_FOR_ONE, 1 << 30]),
    "min_shared_tokens": st.sampled_from([4, 1000]),
    "prefix_bytes": st.sampled_from([1, 20_000, 1 << 30]),
    "adapter_bytes": st.sampled_from([1, 30_000, 1 << 30]),
    "loads_every": st.integers(0, 5),
    "is_fixed": st.booleans(),
    "is_traced": st.booleans(),
}


@pytest.fixture(scope="module")
def alone(broken_zoo: Zoo, make_engine):
    """The answer's ids and the end of a row that has an engine to itself; greedy ones are PEFT's own."""
    engine = make_engine(n_slots=1, min_shared_tokens=1000, own_bytes=1 << 30)

    @cache
    def found(kind: str, mode: str, text: int) -> tuple[list[int], Done]:
        request = request_for(broken_zoo, Arrival(kind=kind, mode=mode, text=text, n_tokens=N_TOKENS), "r")
        outcome = run(engine, [request])
        if mode == "greedy" and kind not in HEADS:
            assert outcome.ids("r") == broken_zoo.greedy(kind, request.prompt_ids, N_TOKENS, engine.stop_ids)
        return outcome.ids("r"), outcome.done("r")

    return found


def emitted_of(arrival: Arrival, alone) -> tuple[int, ...]:
    """What another engine has sent of the answer."""
    if arrival.mode == "choices" or arrival.kind == BROKEN:
        return ()
    whole, _ = alone(arrival.kind, arrival.mode, arrival.text)
    return tuple(whole[: min(arrival.n_emitted, arrival.n_tokens - 1)])


def check_row(arrival: Arrival, name: str, events, alone) -> None:
    answer, end = [*emitted_of(arrival, alone), *ids_in(events, name)], end_of(events, name)
    if arrival.kind == BROKEN:
        is_given_up = getattr(end, "finish_reason", "") == "cancelled" or end.error.code == "deadline"
        assert not answer and (is_given_up or isinstance(end.error, ModelError)), end
        return
    whole, wanted = alone(arrival.kind, arrival.mode, arrival.text)
    if not isinstance(end, Done):
        assert arrival.ends == "deadline" and end.error.code == "deadline", end
    elif end.finish_reason == "cancelled":
        assert arrival.ends == "cancel"
    else:
        n = arrival.n_tokens if arrival.kind not in HEADS else len(emitted_of(arrival, alone)) or len(whole)
        assert answer == whole[:n], f"{arrival} row {name}"
        assert end.scores == pytest.approx(wanted.scores, abs=1e-4)
        assert [x.label for x in end.labels] == [x.label for x in wanted.labels]
        return
    assert answer == whole[: len(answer)]


def check_sharing(requests: Sequence[Request], events: Sequence[Event]) -> None:
    """What a row copied, some other row of the same team, adapter and name has read."""
    by_id = {request.id: request for request in requests}
    for event in events:
        if isinstance(event, Started) and event.cached_tokens:
            row = by_id[event.id]
            assert any(
                (other.team_id, other.artifact, other.label) == (row.team_id, row.artifact, row.label)
                and other.prompt_ids[: event.cached_tokens] == row.prompt_ids[: event.cached_tokens]
                for other in requests
                if other.id != row.id
            ), f"row {row.id} copied what no row of its task has read"


def check_schedule(zoo, make_engine, alone, given_arrivals, loads_every, **options) -> None:
    executor = LateExecutor() if loads_every else InlineExecutor()
    engine = make_engine(executor=executor, **options)
    engine.runner.traces.after = 1

    def after_step(now: int) -> None:
        if loads_every and now % loads_every == 0:
            executor.release()
        check_books(engine)
        poison(engine)

    requests = [
        replace(request_for(zoo, arrival, str(n)), emitted=emitted_of(arrival, alone))
        for n, arrival in enumerate(given_arrivals)
    ]
    outcome = play(engine, given_arrivals, requests, after_step=after_step)
    for n, arrival in enumerate(given_arrivals):
        check_row(arrival, str(n), outcome.events, alone)
    check_sharing(requests, outcome.events)
    check_at_rest(engine)


@EXAMPLES
@given(**schedules)
def test_every_row_of_a_random_schedule_answers_as_alone(broken_zoo, make_engine, alone, **schedule):
    check_schedule(broken_zoo, make_engine, alone, **schedule)


@pytest.mark.slow
@MANY
@given(**schedules)
def test_every_row_of_many_random_schedules_answers_as_alone(broken_zoo, make_engine, alone, **schedule):
    check_schedule(broken_zoo, make_engine, alone, **schedule)


def test_cancelling_at_any_step_frees_the_slot_and_disturbs_nobody(zoo, make_engine):
    engine = make_engine(prefill_tokens=7, n_slots=3)
    ids, other = (
        prompt_ids(zoo.backbone.tokenizer, [{"role": "user", "content": text}]) for text in (TEXTS[2], TEXTS[1])
    )
    wanted = zoo.greedy("lora_other", other, N_TOKENS, engine.stop_ids)
    for kind in ("plain", "prompt_tuning", "lora"):
        expected = zoo.greedy(kind, ids, N_TOKENS, engine.stop_ids)
        for at in range(22):
            engine.submit(request_of(zoo, kind, ids, name="goes", max_tokens=N_TOKENS))
            engine.submit(request_of(zoo, "lora_other", other, name="stays", max_tokens=N_TOKENS))
            events = []
            for step in range(60):
                if step == at:
                    engine.cancel("goes")
                events += engine.step()
                if step >= at:
                    assert "goes" not in [row["id"] for row in engine.snapshot().rows]
            goes = [i for e in events if isinstance(e, Token) and e.id == "goes" for i in e.ids]
            assert ids_in(events, "stays") == wanted and goes == expected[: len(goes)]
            check_at_rest(engine)
