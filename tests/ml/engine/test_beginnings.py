"""Which beginnings of prompts are worth keeping, without a model."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from ml.engine.beginnings import N_FLOWS, N_KEPT, Beginnings, n_common

FLOW = (1, "", "plain model")
SYSTEM = tuple(range(100, 150))


def beginnings(**options: int) -> tuple[Beginnings, set]:
    kept: set = set()
    return Beginnings(kept.__contains__, **options), kept


def ask(found: Beginnings, kept: set, ids: tuple[int, ...], flow=FLOW) -> int:
    """A row that reads its prompt; returns how much of it was there."""
    looked = found.look(flow, ids)
    if looked.n_to_keep:
        key, superfluous = found.keep(flow, ids[: looked.n_to_keep])
        kept.difference_update(superfluous)
        if key is not None:
            kept.add(key)
    return looked.n_tokens


def test_what_came_twice_is_there_for_the_third():
    found, kept = beginnings()
    assert [ask(found, kept, (*SYSTEM, n, n, n)) for n in range(4)] == [0, 0, 50, 50]
    assert (found.n_rows, found.n_hits, found.n_tokens) == (4, 2, 100)


def test_a_short_beginning_is_not_worth_it():
    found, kept = beginnings()
    assert [ask(found, kept, (*SYSTEM[:20], n, n)) for n in range(4)] == [0] * 4 and not kept


def test_teams_adapters_and_names_share_nothing():
    found, kept = beginnings()
    flows = [(team, adapter, label) for team in (1, 2) for adapter in ("", "a") for label in ("x", "y")]
    for _ in range(2):
        for flow in flows:
            assert ask(found, kept, (*SYSTEM, 1), flow) == 0


def test_at_least_one_token_is_left_to_read():
    found, kept = beginnings()
    assert [ask(found, kept, SYSTEM) for _ in range(3)] == [0, 0, len(SYSTEM) - 1]


def test_two_questions_that_begin_alike_do_not_spoil_the_others():
    found, kept = beginnings()
    for end in ((7, 7, 1), (7, 7, 2)):
        ask(found, kept, (*SYSTEM, *end))
    assert ask(found, kept, (*SYSTEM, 9, 9)) == len(SYSTEM)


def test_a_conversation_that_grows_replaces_what_it_covers():
    found, kept = beginnings()
    text = tuple(range(1000))
    there = [ask(found, kept, text[:n]) for n in (60, 120, 180, 240)]
    assert there == [0, 0, 60, 120] and len(kept) == 1


def test_what_memory_had_no_room_for_is_not_used():
    found, kept = beginnings()
    for n in range(3):
        ask(found, kept, (*SYSTEM, n))
    kept.clear()
    assert [ask(found, kept, (*SYSTEM, n)) for n in range(3, 6)] == [0, 50, 50]


def test_neither_flows_nor_a_flows_beginnings_grow_without_end():
    found, kept = beginnings()
    for n in range(N_FLOWS + 50):
        ask(found, kept, SYSTEM, (n, "", ""))
    assert len(found._flows) == N_FLOWS
    for n in range(20):
        for end in range(2):
            ask(found, kept, (n, *SYSTEM, end))
    assert len(kept) == N_KEPT


prompts = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=12).map(tuple), max_size=30)


@given(prompts)
def test_whatever_is_copied_is_a_beginning_that_another_row_had(given_prompts):
    found, kept, texts = beginnings(min_tokens=2), set(), {}
    found, kept = found
    for ids in given_prompts:
        looked = found.look(FLOW, ids)
        assert 0 <= looked.n_tokens < len(ids) and looked.n_to_keep <= len(ids)
        assert looked.n_tokens == 0 or texts[looked.key][: looked.n_tokens] == ids[: looked.n_tokens]
        if looked.n_to_keep:
            key, superfluous = found.keep(FLOW, ids[: looked.n_to_keep])
            kept.difference_update(superfluous)
            if key is not None:
                kept.add(key)
                texts[key] = ids[: looked.n_to_keep]
    assert len(kept) <= N_KEPT


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_the_common_beginning_is_common_and_the_longest(a, b):
    n = n_common(a, b)
    assert (a[:n] == b[:n] and a[: n + 1] != b[: n + 1]) or n == min(len(a), len(b))


def test_it_imports_no_torch():
    code = "import sys, ml.engine.beginnings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
