"""What a study's page shows, as the context of its templates: live parts, leaderboard, charts, rows in dispute."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.utils.dateparse import parse_datetime

from ml.errors import NotFoundError
from webapp.models import Study
from webapp.selectors import studies as select
from webapp.selectors.run_plan import spec_yaml
from webapp.selectors.study_cells import CellView
from webapp.selectors.study_charts import charts_of, size_table, spent_bar
from webapp.selectors.study_leaderboard import leaderboard, matrix_groups
from webapp.selectors.study_rows import SHOWS, Disagreements, disagreements


def page_context(request: HttpRequest, study: Study) -> dict[str, Any]:
    page = select.page_of(study)
    board = page.board
    context = live_context(page) | {"may_write": request.principal.may("member")}
    if study.is_done and board is not None:
        context |= {
            "leaderboard": leaderboard(board, page.cells, request.GET.get("sort", "")), "charts": charts_of(board),
            "sizes": size_table(board), "shows": SHOWS.items(), "measured": measured_cells(page),
        }  # fmt: skip
        try:
            context["disagreements"] = in_dispute(study, page, request.GET.dict())
        except NotFoundError as error:
            context["rows_problem"] = error
    about = study.about
    return context | {
        "spec_yaml": spec_yaml(study.spec), "began": _moment(about.get("started_at")), "about": about,
        "spent_bar": spent_bar(about.get("spent_s")),
        "tries": [(entry, board.tries[entry.technique]) for entry in board.entries if board.tries.get(entry.technique)]
        if board else [],
    }  # fmt: skip


def _moment(text: Any) -> datetime | None:
    """A time as the study's process wrote it."""
    try:
        return parse_datetime(str(text))
    except ValueError:
        return None


def live_context(page: select.StudyPage) -> dict[str, Any]:
    return {
        "page": page, "study": page.study, "board": page.board,
        "groups": matrix_groups(page.matrix, page.board, page.plan),
        "seeds": page.study.spec.get("seeds") or [], "shares": page.study.spec.get("shares") or [],
        "share_rows": [row for row in page.matrix if row.shares],
        "live": {"is_live": page.is_live, "last_event": page.last_event},
    }  # fmt: skip


def measured_cells(page: select.StudyPage) -> list[CellView]:
    """Cells whose rows can be looked at, best first."""
    found = [
        cell for cell in page.cells if cell.state == "done" and cell.entry is not None and cell.measure is not None
    ]
    return sorted(found, key=lambda cell: (-cell.share, -(cell.measure.value if cell.measure else 0)))


def in_dispute(study: Study, page: select.StudyPage, given: Mapping[str, str]) -> Disagreements | None:
    """The two that were asked for; else the best against the best without training, or against the next."""
    keys = [cell.key for cell in measured_cells(page)]
    if len(keys) < 2 or page.board is None:
        return None
    best = page.board.best.best_key if page.board.best else keys[0]
    rival = page.board.best_untrained.best_key if page.board.best_untrained else ""
    a = given.get("a") if given.get("a") in keys else best if best in keys else keys[0]
    other = next(key for key in keys if key != a)
    b = given.get("b") if given.get("b") in keys else rival if rival in keys and rival != a else other
    return disagreements(study=study, a=str(a), b=str(b), given=given)
