"""Any order of coming and going, any mix of forms, reused and poisoned slots: each row answers as it does alone."""

from __future__ import annotations

from collections import defaultdict
from functools import cache

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml.data.chat import prompt_ids
from ml.engine.types import Done, Failed, Token
from tests.ml.engine.conftest import HEADS, KINDS, Zoo, request_of

TEXTS = ["Hi", "What colour is the sky?", "My lights went out. What should I do now, and whom do I call?", "A tree."]
POISON = 1e4
N_TOKENS = 9
ROOM_FOR_ONE = 400_000
"""Bytes: one of the tiny models of its own that share little with the frozen one, with four slots."""


@cache
def alone(zoo: Zoo, kind: str, text: str, stop_ids: frozenset[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The prompt, and what the row says when nobody else is there: of a head, its label's tokens."""
    ids = prompt_ids(zoo.backbone.tokenizer, [{"role": "user", "content": text}])
    if kind in HEADS:
        label, _ = zoo.labels(kind, ids)[0]
        return tuple(ids), tuple(zoo.backbone.tokenizer(label, add_special_tokens=False)["input_ids"])
    return tuple(ids), tuple(zoo.greedy(kind, ids, N_TOKENS, set(stop_ids)))


arrival = st.tuples(
    st.integers(0, 6),  # steps to wait before it comes
    st.sampled_from([*KINDS, *HEADS]),
    st.integers(0, len(TEXTS) - 1),
    st.integers(1, N_TOKENS),  # tokens asked for
    st.one_of(st.none(), st.integers(0, 12)),  # cancelled so many steps after it came
    st.integers(1, 3),  # team
)


def poison(engine) -> None:
    """Everything that no row may read: free slots, and what lies beyond each row's position."""
    for batch in engine.batches:
        live = batch.scheduler.live
        for layer in batch.runner.cache.layers:
            for store in (layer.keys, layer.values):
                store[len(live) :] = POISON
                for row in live:
                    store[row.slot, :, row.position :] = -POISON


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    arrivals=st.lists(arrival, min_size=1, max_size=12),
    n_slots=st.integers(1, 5),
    prefill_tokens=st.sampled_from([2, 7, 30, 200]),
    own_bytes=st.sampled_from([ROOM_FOR_ONE, 1 << 30]),
    min_shared_tokens=st.sampled_from([4, 1000]),
)
def test_every_row_of_a_random_schedule_answers_as_alone(zoo, make_engine, arrivals, n_slots, **settings):
    engine = make_engine(n_slots=n_slots, **settings)
    waiting = sorted(enumerate(arrivals), key=lambda pair: pair[1][0])
    cancels: dict[int, list[str]] = defaultdict(list)
    answers: dict[str, list[int]] = defaultdict(list)
    ends: dict[str, object] = {}
    now = 0
    while waiting or not engine.is_idle:
        while waiting and waiting[0][1][0] <= now:
            n, (_, kind, text, n_tokens, cancel_after, team) = waiting.pop(0)
            ids, _ = alone(zoo, kind, TEXTS[text], frozenset(engine.stop_ids))
            engine.submit(request_of(zoo, kind, ids, name=str(n), team=team, max_tokens=n_tokens))
            if cancel_after is not None:
                cancels[now + cancel_after].append(str(n))
        for name in cancels.pop(now, ()):
            engine.cancel(name)
        with torch.inference_mode():
            poison(engine)
        for event in engine.step():
            if isinstance(event, Token):
                answers[event.id] += event.ids
            elif isinstance(event, Done | Failed):
                ends[event.id] = event
        now += 1
        assert now < 1000, "the schedule does not end"
    for n, (_, kind, text, n_tokens, cancel_after, _) in enumerate(arrivals):
        _, expected = alone(zoo, kind, TEXTS[text], frozenset(engine.stop_ids))
        end, answer = ends[str(n)], answers[str(n)]
        assert isinstance(end, Done), end
        if end.finish_reason == "cancelled":
            assert cancel_after is not None and answer == list(expected[: len(answer)])
        else:
            assert answer == list(expected if kind in HEADS else expected[:n_tokens]), f"{kind} row {n}"
    for batch in engine.batches:
        assert batch.is_idle and batch.scheduler.table.n_decoding == 0
    assert not any(site.slots for site in engine.runner.sites.by_name.values())


def test_cancelling_at_any_step_frees_the_slot_and_disturbs_nobody(zoo, make_engine):
    engine = make_engine(prefill_tokens=7, n_slots=3)
    for kind in ("plain", "prompt_tuning", "lora"):
        ids, expected = alone(zoo, kind, TEXTS[2], frozenset(engine.stop_ids))
        other, wanted = alone(zoo, "lora_other", TEXTS[1], frozenset(engine.stop_ids))
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
            stays = [i for e in events if isinstance(e, Token) and e.id == "stays" for i in e.ids]
            goes = [i for e in events if isinstance(e, Token) and e.id == "goes" for i in e.ids]
            assert stays == list(wanted) and goes == list(expected[: len(goes)])
            assert engine.is_idle and not engine.scheduler.live and engine.scheduler.table.n_free == 3
