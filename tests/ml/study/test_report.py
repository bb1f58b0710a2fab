"""Reports: whole, self-contained, and deaf to whatever stands in the data."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.errors import DataError, StorageError
from ml.study import report
from ml.study.markup import Html, html, joined
from ml.study.report import write_reports
from ml.study.report_markdown import code, text_of
from tests.ml.study.fake import fake_study

HOSTILE = '<script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>" onload="alert(3)'
LABELS = ('=HYPERLINK("http://evil.example")', "<b>bold</b>", "![x](http://evil.example/y)", "```\n# head")
VOID = {"meta", "line", "circle", "br", "rect", "path"}


class Page(HTMLParser):
    """Every tag with its attributes, and whether they are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    fake_study(folder, seeds=(17, 18), shares=(0.3,), n_rows=60, failed=("qlora-s17",), left_out=("full-s18",))
    return folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose name, labels and questions are markup, formulas and line breaks; and an error that quotes it."""
    folder = tmp_path_factory.mktemp("hostile")
    fake_study(folder, techniques=("few_shot", "lora", "full"), n_rows=30, question=HOSTILE, labels=LABELS,
               dataset=HOSTILE, base="=1+1", instruction=HOSTILE, failed=("full-s17",), reports=False)  # fmt: skip
    cell = json.loads((folder / "cells" / "full-s17.json").read_text())
    cell["error"]["message"] = f"Row 3 cannot be read: {HOSTILE}\n| a | b |"
    (folder / "cells" / "full-s17.json").write_text(json.dumps(cell))
    about = json.loads((folder / "study.json").read_text())
    about |= {"command": f"@evil {HOSTILE}", "commit": "-1+1"}
    (folder / "study.json").write_text(json.dumps(about))
    write_reports(folder)
    return folder


def page_of(folder: Path) -> Page:
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    return page


def lines_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "report.csv").read_text(encoding="utf-8"))))


def test_three_files_are_written_and_nothing_else_is_left(out: Path) -> None:
    assert [path.name for path in write_reports(out)] == ["report.html", "report.md", "report.csv"]
    assert not list(out.glob(".report*"))


def test_the_page_asks_for_nothing_and_runs_nothing(out: Path, hostile: Path) -> None:
    for folder in (out, hostile):
        text = (folder / "report.html").read_text(encoding="utf-8")
        page = page_of(folder)
        names = {tag for tag, _ in page.tags}
        assert not names & {"script", "img", "link", "iframe", "object", "embed", "form", "use", "image", "a", "base"}
        for _, attributes in page.tags:
            assert not {"src", "href", "style", "xlink:href", "action"} & set(attributes)
            assert not any(name.startswith("on") for name in attributes)
        assert not re.search(r"url\(|@import|@font-face", text)
        policy = next(attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv"))
        assert policy is not None and policy.startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_hostile_texts_are_shown_as_texts(hostile: Path) -> None:
    shown = "".join(page_of(hostile).texts)
    assert f"{HOSTILE}: which technique?" in shown
    assert f"Row 3 cannot be read: {HOSTILE}" in shown
    assert "<script>alert" not in (hostile / "report.html").read_text(encoding="utf-8")


def test_the_page_shows_every_entry_pair_cell_and_setting(out: Path) -> None:
    board = json.loads((out / "board.json").read_text())
    shown = "".join(page_of(out).texts)
    for finding in board["findings"]:
        assert finding["title"] in shown.replace("\u00a0", " ")
    for cell in (out / "cells").glob("*.json"):
        assert cell.stem in shown
    for text in ("python -m ml study spec.json", "peft 0.18.0", "c92fc7c", "5e5e5e", "AMD EPYC", "17, 18"):
        assert text in shown
    cells = [json.loads(path.read_text()) for path in (out / "cells").glob("*.json")]
    n_trained = sum(cell["kind"] == "trained" and cell["state"] == "done" for cell in cells)
    assert shown.count('"learning_rate"') == n_trained > 0


def test_charts_say_what_they_show(out: Path) -> None:
    charts = [attributes for tag, attributes in page_of(out).tags if tag == "svg" and attributes.get("class") == "area"]
    assert len(charts) == 6
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)


def test_markdown_has_no_markup_but_its_own(hostile: Path) -> None:
    text = (hostile / "report.md").read_text(encoding="utf-8")
    outside = re.sub(r"^(`{3,})\w*\n.*?\n\1$", "", text, flags=re.S | re.M)
    assert "<script" not in outside and "<img" not in outside
    assert not re.search(r"(?<!\\)!\[[^\]]*\]\(", outside)
    heads = [line for line in outside.splitlines() if line.startswith("#")]
    assert all("script" not in head or head.startswith("# &lt;script") for head in heads)
    widths = {}
    for block in re.findall(r"(?:^\|.*\n)+", outside, flags=re.M):
        widths[block] = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
    assert all(len(found) == 1 for found in widths.values())


def test_markdown_holds_every_cells_spec_seed_command_and_versions(out: Path) -> None:
    text = (out / "report.md").read_text(encoding="utf-8")
    for path in (out / "cells").glob("*.json"):
        assert f"### {text_of(path.stem)}" in text
    assert "```sh\npython -m ml study spec.json" in text
    assert "peft 0.18.0" in text and "seed 17" in text


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_stays_one_plain_line_of_markdown(value: str) -> None:
    found = text_of(value)
    assert "\n" not in found and "<" not in found and "](" not in found.replace("]\\(", "")
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_]", found)


@given(st.text(alphabet="`a\n~"))
def test_no_text_ends_its_own_block(value: str) -> None:
    fence = code(value).split("\n", 1)[0]
    assert fence not in value and set(fence) == {"`"}


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_stays_a_text_in_html(value: str) -> None:
    page = Page(html('<p title="{value}">{value}</p>', value=value))
    assert [tag for tag, _ in page.tags] == ["p"]
    assert page.open == []


def test_markup_is_filled_in_once() -> None:
    inner = html("<b>{x}</b>", x="{y} & <i>")
    assert html("<p>{inner}</p>", inner=inner) == "<p><b>{y} &amp; &lt;i&gt;</b></p>"
    assert joined([Html("<br>"), "<br>"], ", ") == "<br>, &lt;br&gt;"


def test_csv_has_a_line_a_cell_with_all_its_figures(out: Path) -> None:
    lines = lines_of(out)
    cells = {path.stem: json.loads(path.read_text()) for path in (out / "cells").glob("*.json")}
    assert {line["key"] for line in lines} == set(cells)
    for line in lines:
        cell = cells[line["key"]]
        assert (line["state"], int(line["seed"])) == (cell["state"], cell["seed"])
        if cell["state"] == "done":
            assert float(line["accuracy"]) == cell["value"]
            assert float(line["accuracy_low"]) == cell["interval"][0]
            assert json.loads(line["spec"]) == cell["spec"]
        assert line["command"].startswith("python -m ml study")
        assert json.loads(line["versions"])["peft"] == "0.18.0"
        assert line["dataset_sha256"] == "5e" * 32


def test_csv_cells_that_a_spreadsheet_would_run_are_neutralised(hostile: Path) -> None:
    for line in lines_of(hostile):
        for cell in line.values():
            assert not cell.startswith(("=", "+", "@", "\t", "\r"))
            assert not cell.startswith("-") or float(cell) < 0
        assert line["command"].startswith("'@evil")
        assert line["base"] == "'=1+1"
        assert line["commit"] == "'-1+1"


@pytest.mark.parametrize("given", [
    {"techniques": ("lora",), "waiting": ("lora-s17",)},
    {"techniques": ("lora", "plain"), "failed": ("lora-s17", "plain-s17")},
    {"techniques": ("plain",), "n_rows": 2},
    {"techniques": ("lora", "plain", "head"), "ability": {"lora": 1, "plain": 0, "head": 1}, "seeds": (1, 2)},
    {"task": "generation", "metric": "chrf", "techniques": ("plain", "lora", "p_tuning"), "shares": (0.5,)},
], ids=["nothing", "all failed", "one prompt", "all right", "free answers"])  # fmt: skip
def test_a_study_of_any_state_has_its_reports(tmp_path: Path, given: dict[str, Any]) -> None:
    fake_study(tmp_path, **{"n_rows": 20, **given})
    page = page_of(tmp_path)
    assert "NaN" not in "".join(page.texts)
    for _, attributes in page.tags:
        assert not any("nan" in str(value) or "None" in str(value) for value in attributes.values())
    assert len(lines_of(tmp_path)) == len(list((tmp_path / "cells").glob("*.json")))


def test_reports_are_made_again_from_what_is_kept(out: Path) -> None:
    before = {path.name: path.read_bytes() for path in write_reports(out)}
    for name in before:
        (out / name).unlink()
    assert {path.name: path.read_bytes() for path in write_reports(out)} == before


def test_a_folder_without_a_board_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"board\.json of the study cannot be read"):
        write_reports(tmp_path)
    (tmp_path / "board.json").write_text("[]")
    with pytest.raises(DataError, match="is no object"):
        write_reports(tmp_path)


def test_a_disk_that_refuses_leaves_the_report_that_was_there(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (out / "report.html").read_bytes()

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "flush_file", full)
    with pytest.raises(StorageError, match=r"report\.html could not be written: No space left"):
        write_reports(out)
    assert (out / "report.html").read_bytes() == before
    assert not list(out.glob(".report*"))
