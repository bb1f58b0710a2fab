"""Model cards as blocks of plain text."""

from __future__ import annotations

from pathlib import Path

from webapp.selectors.cards import LARGEST_BYTES, blocks, read_card

CARD = """---
license: mit
---
# Title

One line
and the next. ![x](https://evil.example/x.png)

- a
- b

| metric | value |
|---|---|
| accuracy | 0.9 \\| 1 |

```
| not | a table |
```
"""


def test_a_card_is_cut_into_its_blocks() -> None:
    assert [block.kind for block in blocks(CARD)] == ["heading", "paragraph", "list", "table", "code"]


def test_front_matter_is_left_out() -> None:
    assert blocks(CARD)[0].text == "Title"


def test_a_table_keeps_its_cells_and_escaped_bars() -> None:
    assert blocks(CARD)[3].cells == [["metric", "value"], ["accuracy", "0.9 | 1"]]


def test_links_and_images_stay_text() -> None:
    assert "![x](https://evil.example/x.png)" in blocks(CARD)[1].text


def test_a_broken_card_is_still_text() -> None:
    assert [block.text for block in blocks("---\nnever closed\n# x")] == ["--- never closed", "x"]
    assert blocks("```\nnever closed")[0].text == "never closed"


def test_a_card_is_read_up_to_a_bound_and_need_not_be_there(tmp_path: Path) -> None:
    assert read_card(tmp_path) == []
    (tmp_path / "README.md").write_bytes(b"x" * (LARGEST_BYTES + 100) + b"\xff")
    assert len(read_card(tmp_path)[0].text) == LARGEST_BYTES


def test_code_between_backticks_is_a_span_and_a_lonely_backtick_is_text() -> None:
    (spans,) = blocks("load `peft` and `x")[0].parts
    assert [(span.text, span.is_code) for span in spans] == [("load ", False), ("peft", True), (" and `x", False)]
