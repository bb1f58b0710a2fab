"""Who goes next, without a model."""

from __future__ import annotations

import pytest

from ml.engine.fair import FairQueue
from ml.engine.scheduler import STAGED_AHEAD, Scheduler
from ml.engine.types import Request, Row, Sampling
from ml.errors import BusyError, ContextTooLongError


def row_of(name: str = "r", *, team: int = 1, task: str | None = None, prompt: int = 4, answer: int = 4) -> Row:
    request = Request(
        id=name, team_id=team, prompt_ids=tuple(range(prompt)), artifact=task, sampling=Sampling(max_tokens=answer)
    )
    return Row(request=request)


def scheduler_of(**changes: int) -> Scheduler:
    return Scheduler(**({"n_slots": 2, "length": 32, "prefill_tokens": 8, "queue_limit": 100} | changes))


def admit(scheduler: Scheduler) -> list[str]:
    scheduler.stage(lambda row: None)
    return [row.request.id for row in scheduler.admit(lambda row: True)]


def test_a_team_that_asks_a_lot_does_not_delay_another():
    queue: FairQueue[str] = FairQueue()
    for n in range(50):
        queue.push("busy", None, 10, f"busy {n}")
    queue.push("quiet", None, 10, "quiet")
    assert "quiet" in [queue.pop() for _ in range(2)]


def test_tasks_of_one_team_take_turns():
    queue: FairQueue[str] = FairQueue()
    for n in range(3):
        queue.push(1, "a", 10, f"a{n}")
    for n in range(3):
        queue.push(1, "b", 10, f"b{n}")
    assert [queue.pop() for _ in range(6)] == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_long_requests_count_more_than_short_ones():
    queue: FairQueue[str] = FairQueue()
    for _ in range(2):
        queue.push("long", None, 100, "long")
    for _ in range(6):
        queue.push("short", None, 25, "short")
    first = [queue.pop() for _ in range(5)]
    assert first.count("short") == 4 and first.count("long") == 1


def test_idling_earns_no_credit():
    queue: FairQueue[str] = FairQueue()
    for _ in range(20):
        queue.push("busy", None, 10, "busy")
        queue.pop()
    for _ in range(3):
        queue.push("busy", None, 10, "busy")
        queue.push("late", None, 10, "late")
    taken = [queue.pop() for _ in range(4)]
    assert taken.count("busy") == 2


def test_a_queue_that_runs_empty_forgets_its_accounts():
    queue: FairQueue[int] = FairQueue()
    for n in range(100):
        queue.push(n, n, 1, n)
    while len(queue):
        queue.pop()
    queue.push("new", None, 1, 0)
    queue.pop()
    assert not queue._teams.served and not queue._tasks


def test_a_full_queue_is_refused():
    scheduler = scheduler_of(queue_limit=2)
    scheduler.submit(row_of())
    scheduler.submit(row_of())
    with pytest.raises(BusyError, match="2 requests are waiting"):
        scheduler.submit(row_of())


def test_a_row_that_can_never_fit_is_refused_with_the_numbers():
    row = row_of(prompt=30, answer=8)
    row.prefix_tokens = 5
    with pytest.raises(ContextTooLongError) as caught:
        scheduler_of().submit(row)
    assert "30 tokens" in str(caught.value) and "43 in all" in str(caught.value) and "32 fit" in str(caught.value)
    assert "19 tokens" in caught.value.hint


def test_a_row_that_exactly_fits_is_taken():
    scheduler_of().submit(row_of(prompt=28, answer=4))


def test_no_more_rows_are_admitted_than_there_are_slots():
    scheduler = scheduler_of()
    for n in range(4):
        scheduler.submit(row_of(str(n)))
    assert admit(scheduler) == ["0", "1"] and admit(scheduler) == []
    scheduler.drop(scheduler.live[0])
    assert admit(scheduler) == ["2"]


def test_a_row_whose_adapter_is_slow_delays_nobody():
    scheduler = scheduler_of()
    for name in ("slow", "quick"):
        scheduler.submit(row_of(name))
    scheduler.stage(lambda row: None)
    assert [row.request.id for row in scheduler.admit(lambda row: row.request.id != "slow")] == ["quick"]
    assert [row.request.id for row in scheduler.admit(lambda row: True)] == ["slow"]


def test_only_some_adapters_are_loaded_ahead():
    scheduler, loaded = scheduler_of(), []
    for n in range(20):
        scheduler.submit(row_of(str(n)))
    scheduler.stage(loaded.append)
    assert len(loaded) == 2 + STAGED_AHEAD and len(scheduler.queue) == 20 - len(loaded)


def test_a_prompt_longer_than_the_budget_is_read_in_chunks_alone():
    scheduler = scheduler_of(prefill_tokens=8)
    for n in (20, 3):
        scheduler.submit(row_of(prompt=n))
    admit(scheduler)
    assert [(chunk.row.slot, chunk.n) for chunk in scheduler.prefill_batch()] == [(0, 8)]


def test_short_prompts_are_read_together_under_the_budget():
    scheduler = scheduler_of(n_slots=4, prefill_tokens=12)
    for n in (4, 3, 4, 4):
        scheduler.submit(row_of(prompt=n))
    admit(scheduler)
    assert [chunk.n for chunk in scheduler.prefill_batch()] == [4, 3, 4]


def test_a_short_prompt_is_not_padded_to_a_much_longer_one():
    scheduler = scheduler_of(n_slots=3, prefill_tokens=100)
    for n in (20, 1, 1):
        scheduler.submit(row_of(prompt=n))
    admit(scheduler)
    assert [chunk.n for chunk in scheduler.prefill_batch()] == [20, 1]


def test_a_waiting_row_can_be_dropped_wherever_it_is():
    scheduler = scheduler_of(n_slots=1)
    rows = [row_of(str(n)) for n in range(10)]
    for row in rows:
        scheduler.submit(row)
    admit(scheduler)
    for row in reversed(rows):
        scheduler.drop(row)
    assert scheduler.everybody == []
