"""What pages and API read of studies: states, matrix, board, disagreements, reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml.errors import NotFoundError
from tests.ml.study.fake import fake_study
from tests.webapp.studying import N_TEST, board, data_version, published, submitted
from webapp.models import Run, RunEvent, Study
from webapp.selectors.studies import page_of, rows_of, studies_of, study_of, techniques_to_add
from webapp.selectors.study_boards import board_of
from webapp.selectors.study_rows import disagreements, report_of
from webapp.services.studies import study_archive, study_extend

RIGHT = {"plain-s17": 4, "zero_shot-s17": 6, "lora-s17": 11, "lora-s18": 10}


@pytest.fixture
def asked(team: Any, member: Any, tmp_path: Path) -> Study:
    """Waits in line: lora by two seeds and with half the rows."""
    return submitted(team, member, data_version(team, tmp_path), seeds=[17, 18], shares=[0.5])


def running(study: Study, *events: tuple[str, dict[str, Any]], state: str = Run.State.RUNNING) -> Study:
    assert study.run is not None
    Run.objects.filter(pk=study.run.pk).update(state=state, progress={"text": "lora at work", "eta_s": 40})
    RunEvent.objects.bulk_create([RunEvent(run=study.run, name=name, data=data) for name, data in events])
    return study_of(team=study.team, pk=study.pk)


def cell(key: str, state: str, **values: Any) -> tuple[str, dict[str, Any]]:
    technique, _, seed = key.rpartition("-s")
    return "cell", {"key": key, "technique": technique, "seed": int(seed), "share": 1.0, "state": state, **values}


def test_a_study_in_line_says_why_it_waits_and_shows_every_cell(asked: Study):
    page = page_of(asked)
    assert (page.state.name, page.is_live, page.can_stop, page.can_extend) == ("waiting", True, True, False)
    assert page.text == "Waiting for a worker to take it." and page.board is None
    assert [row.technique for row in page.matrix] == ["plain", "zero_shot", "lora"]
    assert [c.key if c else None for c in page.matrix[0].cells] == ["plain-s17", None]
    lora = page.matrix[2]
    assert [c.key for c in lora.every] == ["lora-s17", "lora-s18", "lora-s17-0.5"]
    assert page.counts.waiting == page.counts.total == 5


def test_while_it_runs_the_newest_events_are_shown(asked: Study):
    study = running(
        asked, cell("plain-s17", "done", value=0.3, interval=[0.2, 0.4], seconds=4.0),
        cell("lora-s17", "training", learning_rate=0.003), ("board", board(asked, {"plain-s17": 4})),
    )  # fmt: skip
    page = page_of(study)
    plain, lora = page.matrix[0].cells[0], page.matrix[2].cells[0]
    assert plain is not None and plain.state == "done" and plain.measure is not None and plain.measure.low == 0.2
    assert lora is not None and lora.is_at_work and lora.learning_rate == 0.003
    assert (page.state.name, page.text, page.eta_s, page.device_s) == ("running", "lora at work", 40, 4.0)
    assert page.board is not None and page.board.best is not None and page.board.best.technique == "plain"
    assert (page.counts.done, page.counts.at_work, page.counts.waiting) == (1, 1, 3)
    row = rows_of([study])[0]
    assert row.said == "Take plain." and row.best is not None and row.metric_label == "Accuracy"


def test_what_was_at_work_when_it_was_stopped_waits_again(asked: Study):
    study = running(asked, cell("lora-s17", "training"), cell("plain-s17", "done", value=0.3),
                    cell("zero_shot-s17", "failed", error={"message": "It broke.", "hint": "Mend it."}),
                    state=Run.State.CANCELLED)  # fmt: skip
    page = page_of(study)
    assert (page.state.name, page.can_go_on, page.can_extend, page.can_stop) == ("stopped", True, True, False)
    assert (page.counts.done, page.counts.failed, page.counts.waiting) == (1, 1, 3)
    failed = next(c for c in page.cells if c.state == "failed")
    assert (failed.text, failed.hint) == ("It broke.", "Mend it.")


def test_a_failed_study_says_why(asked: Study):
    running(asked, state=Run.State.FAILED)
    Run.objects.update(error={"message": "There was not enough memory.", "hint": "Fewer rows."})
    page = page_of(study_of(team=asked.team, pk=asked.pk))
    assert page.error is not None and page.error["hint"] == "Fewer rows." and page.can_go_on


def test_a_finished_study_is_read_from_what_was_published(asked: Study, tmp_path: Path):
    running(asked, cell("lora-s17", "training"), ("plan", {"techniques": [{"name": "lora"}]}))
    study = published(study_of(team=asked.team, pk=asked.pk), tmp_path, RIGHT, left_out=["lora-s17-0.5"],
                      without_weights=["lora-s18"])  # fmt: skip
    page = page_of(study)
    lora = {c.key: c for c in page.matrix[2].every}
    assert lora["lora-s17"].measure is not None and lora["lora-s17"].measure.value == 11 / N_TEST
    assert lora["lora-s17"].seconds == 10.0 and lora["lora-s17"].entry is not None
    assert (lora["lora-s17-0.5"].state, lora["lora-s17-0.5"].text) == ("left_out", "No budget was left.")
    assert [c.key for c in page.promotable] == ["zero_shot-s17", "lora-s17"]
    assert (page.state.name, page.can_extend, page.is_live) == ("done", True, False)
    assert page.plan == {"techniques": [{"name": "lora"}]} and study.planned == page.plan


def test_an_extension_keeps_what_is_measured_and_lets_the_rest_wait(asked: Study, member: Any, tmp_path: Path):
    study = published(asked, tmp_path, {**RIGHT, "lora-s17-0.5": 7})
    study_extend(study=study, user=member, techniques=["ia3"])
    page = page_of(study_of(team=asked.team, pk=asked.pk))
    assert (page.counts.done, page.counts.waiting) == (5, 3)
    assert page.board is not None and page.board.best is not None and page.board.best.technique == "lora"
    assert page.state.name == "waiting"


def test_a_newer_version_of_its_data_is_named_and_the_study_stays_on_its_own(asked: Study, team: Any, tmp_path: Path):
    assert page_of(asked).newer is None
    newer = data_version(team, tmp_path, number=2)
    page = page_of(study_of(team=team, pk=asked.pk))
    assert page.newer == newer and str(page.study.dataset_version) == "tickets@1"


def test_archived_studies_are_a_list_of_their_own(asked: Study, team: Any, member: Any, tmp_path: Path):
    study = published(asked, tmp_path, RIGHT)
    study_archive(study=study, user=member)
    assert not studies_of(team).exists() and studies_of(team, archived=True).get() == study


def test_another_team_s_study_does_not_exist(asked: Study, other_team: Any):
    assert not studies_of(other_team).exists()
    with pytest.raises(NotFoundError, match="no study"):
        study_of(team=other_team, pk=asked.pk)


def test_what_can_be_added_says_what_is_there_and_what_does_not_fit(asked: Study):
    choices = {choice.technique.name: choice for choice in techniques_to_add(asked)}
    assert choices["lora"].is_there and not choices["ia3"].is_there and not choices["ia3"].reason


def test_the_list_of_many_studies_takes_few_queries(
    team: Any, member: Any, tmp_path: Path, django_assert_max_num_queries: Any
):
    version = data_version(team, tmp_path)
    for _ in range(3):
        published(submitted(team, member, version), tmp_path, {"plain-s17": 4})
    with django_assert_max_num_queries(4):
        assert len(rows_of(list(studies_of(team)))) == 3


def test_rows_where_one_is_right_alone_are_counted_and_shown(asked: Study, tmp_path: Path):
    study = published(asked, tmp_path, {"lora-s17": 9, "plain-s17": 4}, from_the_end=["plain-s17"])
    found = disagreements(study=study, a="lora-s17", b="plain-s17", given={})
    assert found.counts == {"a": 8, "b": 3, "both": 0, "total": N_TEST}
    assert [row.place for row in found] == list(range(8)) and found.n_pages == 1 and not found.has_more
    first = found.rows[0]
    assert (first.is_right_a, first.is_right_b) == (True, False) and first.got_a == first.expected != first.got_b
    turned = disagreements(study=study, a="lora-s17", b="plain-s17", given={"show": "b"})
    assert [row.place for row in turned] == [9, 10, 11]


def test_long_lists_of_disagreements_are_paged(asked: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("webapp.selectors.study_rows.ROWS_A_PAGE", 5)
    study = published(asked, tmp_path, {"lora-s17": 12, "plain-s17": 0})
    last = disagreements(study=study, a="lora-s17", b="plain-s17", given={"page": "3"})
    assert [row.place for row in last] == [10, 11] and (last.page, last.n_pages) == (3, 3)
    beyond = disagreements(study=study, a="lora-s17", b="plain-s17", given={"page": "99", "show": "both"})
    assert beyond.rows == [] and beyond.counts["both"] == 0


def test_cells_that_were_not_measured_have_no_rows(asked: Study, tmp_path: Path):
    study = published(asked, tmp_path, RIGHT, failed=["head-s17"])
    for wrong in ("head-s17", "../study", "lora-s99"):
        with pytest.raises(NotFoundError, match="no measured rows"):
            disagreements(study=study, a="lora-s17", b=wrong, given={})


def test_a_report_is_there_once_it_is_published(asked: Study, tmp_path: Path):
    with pytest.raises(NotFoundError, match="no report yet"):
        report_of(asked, "html")
    study = published(asked, tmp_path, RIGHT)
    path, name = report_of(study, "md")
    assert path.read_text() == "<p>report</p>" and name == f"study-{study.pk}.md"
    with pytest.raises(NotFoundError, match="no report as 'pdf'"):
        report_of(study, "pdf")


def test_a_board_groups_its_entries_and_names_its_pairs(asked: Study):
    found = board_of(board(asked, RIGHT))
    assert found is not None and [[e.technique for e in group] for group in found.groups] == [
        ["lora"], ["zero_shot"], ["plain"],
    ]  # fmt: skip
    assert found.take == found.best == found.entry("lora") and found.take is not None and found.take.front["size"]
    assert found.pairs[0].label_a == "LoRA" and found.pairs[0].is_certain and found.said == "Take lora."
    assert found.counts["done"] == 4 and found.best_untrained is None


def test_a_board_as_the_study_makes_it_is_read_whole(tmp_path: Path):
    given = fake_study(tmp_path / "out", seeds=(17, 18), shares=(0.3,), failed=["ia3-s17"], left_out=["full-s18"],
                       techniques=["plain", "few_shot", "lora", "ia3", "full"], n_rows=60, reports=False)  # fmt: skip
    found = board_of(given)
    assert found is not None and found.given == given and found.metric == "accuracy" and found.n_rows == 60
    assert sum(map(len, found.groups)) == len(found.entries) == len(given["entries"])
    lora = found.entry("lora")
    assert lora is not None and lora.measure is not None and lora.measure.has_interval and lora.has_weights
    assert [figure.seed for figure in lora.per_seed] == [17, 18] and lora.latency_p50_ms and lora.n_trainable
    assert found.take is not None and found.best is not None and found.best_untrained is not None
    assert found.failed[0].text and found.failed[0].hint and found.left_out[0].text
    assert found.findings and found.digest[0][0] == "Take" and found.said == found.findings[0].title
    assert found.curves and found.sizes and found.pairs and 0 < (found.guess or 0) < 1
    assert found.counts["total"] == sum(found.counts[name] for name in ("done", "failed", "left_out", "waiting"))


@pytest.mark.parametrize("given", [{}, {"metric": ""}, None, {"metric": "accuracy", "entries": "none", "pairs": [3]}])
def test_a_board_that_is_none_or_empty_breaks_nothing(given: Any):
    found = board_of(given)
    assert found is None or (found.entries == [] and found.pairs == [] and found.said == "")
