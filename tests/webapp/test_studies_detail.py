"""One study's page: waiting, filling in, finished, failed; its charts, rows in dispute and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from tests.ml.study.fake import ALL, fake_study
from tests.webapp.study_fixtures import asked, client, study, version  # noqa: F401
from tests.webapp.study_pages import HOSTILE, RIGHT, cell, page_of, running
from tests.webapp.studying import N_TEST, board, data_version, published, submitted
from webapp.models import Run, Study, Team


@pytest.fixture(autouse=True)
def stored(settings: Any, tmp_path: Path) -> None:
    """A storage of its own: some tests damage what lies in it."""
    settings.STORAGE_DIR = tmp_path / "storage"


def test_a_study_in_line_shows_every_cell_that_waits(client: Client, asked: Study):
    page = page_of(client, f"/studies/{asked.pk}/")
    assert "0 of 4" in page and "You may close this page" in page and "Stop what is left" in page
    assert "no chance in it" not in page and "Not placed yet" in page


def test_while_it_runs_the_matrix_fills_in(client: Client, asked: Study):
    running(
        asked, cell("plain-s17", "done", value=0.3, interval=[0.2, 0.4], seconds=4.0),
        cell("lora-s17", "training", step=62, n_steps=100, learning_rate=0.003),
        cell("zero_shot-s17", "failed", error={"message": HOSTILE, "hint": "Mend it."}),
        ("board", board(asked, {"plain-s17": 4})),
    )  # fmt: skip
    page = page_of(client, f"/studies/{asked.pk}/")
    for text in ("2 of 4", "step 62 of 100", "training at 0.003", "Mend it.", "about <b>10 min</b> left",
                 "What can already be said", "Take plain.", "no chance in it: measured once"):  # fmt: skip
        assert text in page, text
    assert HOSTILE not in page


def test_an_open_page_gets_news_as_panels_and_is_told_when_it_is_over(client: Client, asked: Study):
    running(asked, cell("lora-s17", "searching"))
    first = client.get(f"/studies/{asked.pk}/live/").json()
    assert set(first["html"]) == {"state", "status", "matrix", "said"} and first["is_live"]
    again = client.get(f"/studies/{asked.pk}/live/?event={first['last_event']}").json()
    assert set(again["html"]) == {"state", "status"}
    Run.objects.update(state=Run.State.FAILED)
    assert client.get(f"/studies/{asked.pk}/live/?event=nonsense").json()["is_live"] is False


def test_a_board_of_half_the_fields_is_shown_as_far_as_it_goes(client: Client, asked: Study):
    half = {"metric": "accuracy", "entries": [{"technique": "plain", "label": "Plain", "value": 0.3}, {"label": "?"}]}
    running(asked, ("board", half))
    assert "Plain" in page_of(client, f"/studies/{asked.pk}/")
    Study.objects.filter(pk=asked.pk).update(board=half, results="a" * 64)
    Run.objects.update(state=Run.State.SUCCEEDED)
    assert "Leaderboard" in page_of(client, f"/studies/{asked.pk}/")


def test_a_finished_study_shows_findings_leaderboard_and_where_it_comes_from(client: Client, study: Study):
    page = page_of(client, f"/studies/{study.pk}/")
    for text in ("Findings", "Take lora.", "Leaderboard", "take this one", "Quality and cost", "Disagreements",
                 "Every cell", "Every pair", "python -m ml study", "torch 2.9.0", "The whole spec, as YAML",
                 "techniques:", "17, 18", "report/html/", "report/md/", "report/csv/", "Promote LoRA"):  # fmt: skip
        assert text in page, text


def test_a_whole_study_of_all_techniques_fits_on_its_page(
    client: Client, team: Team, member: Any, version: Any, tmp_path: Path
):
    """As the real runner writes it: curves, shares, searches, failed and left out cells."""
    out = tmp_path / "whole"
    found = fake_study(out, seeds=(17, 18), shares=(0.1, 0.3), n_rows=40, failed=("qlora-s18",),
                       left_out=("full-s18",), reports=False, question=HOSTILE)  # fmt: skip
    asked = submitted(team, member, version, techniques=list(ALL), seeds=[17, 18], shares=[0.1, 0.3])
    study = published(asked, tmp_path, RIGHT)
    Study.objects.filter(pk=study.pk).update(board=found)
    page = page_of(client, f"/studies/{study.pk}/")
    for text in ("How quality grows with rows", "Learning curves", "The search for the learning rate", "120 rows",
                 "Training needs 9.1 GB", "9 min were left", "Failed and left out", "tied with 1",
                 "more findings"):  # fmt: skip
        assert text in page, text
    charts = client.get(f"/studies/{study.pk}/").context["charts"]
    assert len(charts["points"]) == len(found["entries"]) and charts["curves"]["by"] == "value"
    assert [line["shown"] for line in charts["curves"]["lines"]].count(True) == 4


def test_the_leaderboard_is_sorted_by_a_cost_and_back(client: Client, study: Study):
    def order(query: str) -> list[str]:
        board = client.get(f"/studies/{study.pk}/{query}").context["leaderboard"]
        return [line.entry.technique for group in board.groups for line in group]

    values = {"plain": 30, "zero_shot": 20, "lora": 10}
    for entry in study.board["entries"]:
        entry["latency_p50_ms"] = values[entry["technique"]]
    study.save(update_fields=["board"])
    assert order("") == ["lora", "zero_shot", "plain"] == order("?sort=latency") == order("?sort=nonsense")
    assert order("?sort=-latency") == ["plain", "zero_shot", "lora"]
    assert len(client.get(f"/studies/{study.pk}/?sort=latency").context["leaderboard"].groups) == 1


def test_the_rows_in_dispute_are_those_of_the_two_that_were_chosen(client: Client, study: Study):
    page = page_of(client, f"/studies/{study.pk}/rows/?a=lora-s17&b=plain-s17&show=a")
    assert "the first alone is right on 7" in page and page.count("ticket number") == 7
    other = page_of(client, f"/studies/{study.pk}/rows/?a=lora-s17&b=plain-s17&show=both")
    assert other.count("ticket number") == N_TEST - 11
    assert page_of(client, f"/studies/{study.pk}/rows/?a=nothing&b=../../etc")


def test_names_and_texts_of_others_are_shown_as_text(client: Client, study: Study):
    Study.objects.filter(pk=study.pk).update(name=HOSTILE, board={
        **study.board, "findings": [{"kind": "take", "sure": "open", "title": HOSTILE, "text": HOSTILE}],
        "failed": [{"technique": HOSTILE, "label": HOSTILE, "glyph": HOSTILE, "error": {"message": HOSTILE}}],
    }, about={**study.about, "command": HOSTILE})  # fmt: skip
    for path in ("/studies/", f"/studies/{study.pk}/", f"/studies/{study.pk}/extend/", f"/studies/{study.pk}/promote/",
                 f"/studies/new/?like={study.pk}", f"/studies/{study.pk}/rows/"):  # fmt: skip
        page = page_of(client, path)
        assert HOSTILE not in page and ("&lt;script&gt;" in page or "rows" in path), path


def test_a_study_whose_rows_are_gone_from_the_storage_still_has_its_page(client: Client, study: Study, tmp_path: Path):
    rows = tmp_path / "storage" / study.storage_key / "rows"
    for path in rows.glob("*.jsonl"):
        path.unlink()
    page = page_of(client, f"/studies/{study.pk}/")
    assert "are gone from the storage" in page and "Leaderboard" in page


def test_a_failed_study_says_why_and_goes_on(client: Client, asked: Study):
    Run.objects.update(state=Run.State.FAILED, error={"message": "It needs 9 GB.", "hint": "Take a smaller model."})
    page = page_of(client, f"/studies/{asked.pk}/")
    assert "It needs 9 GB." in page and "Take a smaller model." in page and "Go on" in page
    client.post(f"/studies/{asked.pk}/continue/")
    assert Run.objects.get().state == Run.State.QUEUED


def test_a_newer_version_of_the_data_is_pointed_out(client: Client, study: Study, team: Team, tmp_path: Path):
    newer = data_version(team, tmp_path / "newer", number=2)
    page = page_of(client, f"/studies/{study.pk}/")
    assert "tickets@2 is there since" in page and f"like={study.pk}&amp;dataset_version={newer.pk}" in page


def test_a_report_comes_as_a_file(client: Client, study: Study, asked: Study):
    response = client.get(f"/studies/{study.pk}/report/csv/")
    assert response.headers["Content-Disposition"].startswith("attachment")
    assert client.get(f"/studies/{study.pk}/report/exe/").status_code == 404
