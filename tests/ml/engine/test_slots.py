"""Slot book-keeping without a model: a list of cells stands for the cache."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from ml.engine.slots import Copy, SlotTable
from ml.engine.types import Request, Row


def row_of(name: str) -> Row:
    return Row(request=Request(id=name, team_id=1, prompt_ids=(1,)))


def apply(cells: list[str | None], copies: list[Copy]) -> None:
    for copy in copies:
        if copy.swap:
            cells[copy.source], cells[copy.target] = cells[copy.target], cells[copy.source]
        else:
            cells[copy.target] = cells[copy.source]


@given(st.lists(st.tuples(st.sampled_from(["add", "decode", "remove"]), st.integers(0, 7)), max_size=60))
def test_live_rows_have_no_gap_and_the_copies_carry_each_row_to_its_slot(moves):
    table, cells = SlotTable(6), [None] * 6
    for number, (move, choice) in enumerate(moves):
        if move == "add" and table.n_free:
            row = row_of(str(number))
            table.add(row)
            cells[row.slot] = row.request.id
        elif move == "decode" and table.prefilling:
            apply(cells, table.start_decoding(table.prefilling[choice % len(table.prefilling)]))
        elif move == "remove" and table.rows:
            apply(cells, table.remove(table.rows[choice % len(table.rows)]))
        assert [row.slot for row in table.rows] == list(range(len(table.rows)))
        assert [row.request.id for row in table.rows] == cells[: len(table.rows)]
        assert {row.state for row in table.decoding} <= {"decode"}
        assert {row.state for row in table.prefilling} <= {"prefill"}
    assert table.n_free == 6 - len(table.rows)


def test_a_row_that_was_next_to_decode_needs_no_copy():
    table = SlotTable(2)
    for name in "ab":
        table.add(row_of(name))
    assert table.start_decoding(table.rows[0]) == []
    assert table.start_decoding(table.rows[1]) == []


def test_the_scheduler_and_its_parts_import_no_torch():
    """They must be testable, and usable in a plan, without a model."""
    import subprocess

    code = "import sys, ml.engine.scheduler, ml.engine.text; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
