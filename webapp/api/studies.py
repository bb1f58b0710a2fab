"""/v1/studies: the same studies as on the pages. What a study is asked for is checked by the services alone."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import Body, Router

from ml.errors import SpecError
from webapp.api.runs import version_named
from webapp.models import AdapterVersion, Study
from webapp.reports import report_response
from webapp.selectors.metrics import Measure
from webapp.selectors.studies import StudyPage, StudyRow, entry_of, page_of, rows_of, studies_of, study_of
from webapp.selectors.study_cells import CellView
from webapp.services.studies import study_extend, study_go_on, study_stop, study_submit
from webapp.services.study_promotions import study_promote

router = Router(tags=["studies"])
MOST_LISTED = 100
EXTENSIONS = ("techniques", "seeds", "shares", "budget_s", "collection")
PROMOTION = ("entry", "name", "alias", "reason")


def _study(request: HttpRequest, pk: int) -> Study:
    return study_of(team=request.team, pk=pk)  # type: ignore[attr-defined]


def _figure(measure: Measure | None) -> dict[str, Any] | None:
    return {"value": measure.value, "interval": list(measure.bounds) if measure.bounds else None} if measure else None


def _head(row: StudyRow | StudyPage) -> dict[str, Any]:
    study, counts = row.study, row.counts
    return {
        "id": study.pk, "object": "study", "name": study.name, "dataset": str(study.dataset_version),
        "base": study.base_name, "metric": study.metric, "state": row.state.name, "run": study.run_id,
        "cells": {"done": counts.done, "failed": counts.failed, "left_out": counts.left_out,
                  "at_work": counts.at_work, "waiting": counts.waiting, "total": counts.total},
        "device_s": round(row.device_s, 1), "created": int(study.created_at.timestamp()),
    }  # fmt: skip


def _listed(row: StudyRow) -> dict[str, Any]:
    best = row.best
    leads = {"technique": best.technique, **(_figure(best.measure) or {})} if best else None
    return {**_head(row), "finding": row.said, "best": leads}


def _entry(cell: CellView) -> dict[str, Any]:
    version = (cell.entry.adapter_version or cell.entry.prompt_version) if cell.entry else None
    return {
        "entry": cell.key, "technique": cell.technique, "seed": cell.seed, "share": cell.share, "state": cell.state,
        "figure": _figure(cell.measure), "learning_rate": cell.learning_rate, "seconds": cell.seconds,
        "text": cell.text, "can_be_promoted": cell.can_be_promoted, "version": str(version) if version else None,
    }  # fmt: skip


def _whole(study: Study) -> dict[str, Any]:
    """Everything: the board is board.json as it is published, the newest one while a run goes on."""
    page = page_of(study)
    return {
        **_head(page), "spec": study.spec, "text": page.text, "eta_s": page.eta_s, "error": page.error,
        "newer_dataset": str(page.newer) if page.newer else None, "entries": [_entry(cell) for cell in page.cells],
        "board": page.board.given if page.board else None, "about": study.about,
    }  # fmt: skip


def _known(body: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    if unknown := sorted(set(body) - set(keys)):
        raise SpecError(f"Unknown key {unknown[0][:60]!r}.", hint="Keys: " + ", ".join(keys) + ".", field=unknown[0])
    return body


def _text(body: dict[str, Any], name: str, default: str = "") -> str:
    value = body.get(name, default)
    if not isinstance(value, str):
        raise SpecError(f"{name} must be text, got {value!r:.80}.", field=name)
    return value


def _list(body: dict[str, Any], name: str, kind: type | tuple[type, ...], what: str) -> list[Any]:
    value = body.get(name) or []
    if not isinstance(value, list) or not all(isinstance(one, kind) and not isinstance(one, bool) for one in value):
        raise SpecError(f"{name} must be a list of {what}, got {value!r:.80}.", field=name)
    return value


@router.get("/studies", response=dict, url_name="studies", summary="List the studies")
def studies(request: HttpRequest) -> dict[str, Any]:
    """The newest hundred that are not archived."""
    found = list(studies_of(request.team).order_by("-created_at")[:MOST_LISTED])  # type: ignore[attr-defined]
    return {"object": "list", "data": [_listed(row) for row in rows_of(found)]}


@router.post("/studies", response={201: dict}, url_name="studies", summary="Start a study")
def study_create(request: HttpRequest, body: Body[dict[str, Any]]) -> Any:
    """Keys: dataset (`name@number`), base, techniques, and if you like name, metric, seeds, shares, collection (for
    retrieval) and the settings."""
    given = dict(body)
    name = _text(given, "name")
    given.pop("name", None)
    version = version_named(request, given.pop("dataset", ""))
    if "dataset_sha256" in given:
        raise SpecError("Unknown key 'dataset_sha256'.", hint="The version's name says it.", field="dataset_sha256")
    study = study_submit(
        team=request.team, user=request.user, name=name, dataset_version_id=version.pk, given=given,  # type: ignore[attr-defined]
    )  # fmt: skip
    return 201, _whole(_study(request, study.pk))


@router.get("/studies/{int:study_id}", response=dict, url_name="study", summary="One study with its board")
def study_get(request: HttpRequest, study_id: int) -> dict[str, Any]:
    return _whole(_study(request, study_id))


@router.post("/studies/{int:study_id}/extend", response=dict, url_name="study_extend", summary="Add to a study")
def study_grow(request: HttpRequest, study_id: int, body: Body[dict[str, Any]]) -> dict[str, Any]:
    """Keys: techniques, seeds, shares; budget_s is what this may spend, collection what retrieval searches where the
    study has none yet. A 409 while the study is measured."""
    study, given = _study(request, study_id), _known(body, EXTENSIONS)
    study_extend(
        study=study, user=request.user, techniques=_list(given, "techniques", str, "names"),
        seeds=_list(given, "seeds", int, "whole numbers"), shares=_list(given, "shares", (int, float), "numbers"),
        budget_s=given.get("budget_s"), collection=_text(given, "collection"),
    )  # fmt: skip
    return _whole(_study(request, study_id))


@router.post("/studies/{int:study_id}/stop", response=dict, url_name="study_stop", summary="Stop what is left")
def study_halt(request: HttpRequest, study_id: int) -> dict[str, Any]:
    """`outcome` is cancelled, stopping or too_late. What is measured is kept."""
    outcome = study_stop(study=_study(request, study_id), user=request.user)
    return {**_whole(_study(request, study_id)), "outcome": outcome}


@router.post("/studies/{int:study_id}/continue", response=dict, url_name="study_continue",
             summary="Go on with a stopped study")  # fmt: skip
def study_continue(request: HttpRequest, study_id: int) -> dict[str, Any]:
    study_go_on(study=_study(request, study_id), user=request.user)
    return _whole(_study(request, study_id))


@router.post("/studies/{int:study_id}/promote", response=dict, url_name="study_promote",
             summary="Put an entry into the library")  # fmt: skip
def study_take(request: HttpRequest, study_id: int, body: Body[dict[str, Any]]) -> dict[str, Any]:
    """Keys: entry, name; alias (`production` unless told, "" for none) and reason, where it is held back (409)."""
    given = _known(body, PROMOTION)
    entry = entry_of(study=_study(request, study_id), key=_text(given, "entry"))
    alias = _text(given, "alias", "production")
    version = study_promote(
        entry=entry, user=request.user, name=_text(given, "name"), alias=alias, reason=_text(given, "reason")
    )
    kind = "adapter" if isinstance(version, AdapterVersion) else "prompt"
    return {"object": f"{kind}.version", "version": str(version), "alias": alias or None,
            "model": str(version) if kind == "adapter" else f"prompt:{version}"}  # fmt: skip


@router.get("/studies/{int:study_id}/report/{ending}", url_name="study_report", summary="The report as a file")
def study_report(request: HttpRequest, study_id: int, ending: str) -> HttpResponse:
    """`ending` is html, md or csv."""
    return report_response(_study(request, study_id), ending)
