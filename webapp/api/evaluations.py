"""POST /v1/evaluations and GET /v1/evaluations/{id}: the same evaluations as on the pages."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Body, Router

from ml.errors import SpecError
from webapp.api.runs import version_named
from webapp.models import Evaluation
from webapp.selectors.evaluation_pairs import comparisons_with
from webapp.selectors.evaluations import cost_of, evaluation_of
from webapp.services.evaluations import DEFAULT_ROWS, DEFAULT_TOKENS, evaluation_submit

router = Router(tags=["evaluations"])
KEYS = ("model", "prompt", "collection", "dataset", "split", "rows", "metrics", "max_tokens")


def _as_json(evaluation: Evaluation) -> dict[str, Any]:
    run, cost = evaluation.run, cost_of(evaluation)
    return {
        "id": evaluation.pk, "object": "evaluation", "subject": evaluation.name, "base": evaluation.base_name,
        "dataset": str(evaluation.dataset_version), "split": evaluation.split, "rows": evaluation.n_rows,
        "state": run.state if run else "succeeded", "progress": run.progress if run else {},
        "error": run.error if run else None, "run": run.pk if run else None, "spec": evaluation.spec,
        "main_metric": evaluation.main_metric, "metrics": evaluation.metrics, "intervals": evaluation.intervals,
        "figures": evaluation.figures, "versions": evaluation.versions,
        "cost_per_1000": {"currency": cost.currency, "value": round(cost.per_thousand, 6)} if cost else None,
        "created": int(evaluation.created_at.timestamp()),
    }  # fmt: skip


def _text(body: dict[str, Any], name: str, default: str = "") -> str:
    value = body.get(name, default)
    if not isinstance(value, str):
        raise SpecError(f"{name} must be text, got {value!r:.80}.", field=name)
    return value


@router.post("/evaluations", response={201: dict}, url_name="evaluation_create", summary="Start an evaluation")
def evaluation_create(request: HttpRequest, body: Body[dict[str, Any]]) -> Any:
    """Keys: model, dataset (`name@number`); prompt, collection, split, rows, metrics and max_tokens may be left out."""
    unknown = sorted(set(body) - set(KEYS))
    if unknown:
        raise SpecError(f"Unknown key {unknown[0][:60]!r}.", hint="Keys: " + ", ".join(KEYS) + ".", field=unknown[0])
    metrics = body.get("metrics") or []
    if not isinstance(metrics, list) or not all(isinstance(name, str) for name in metrics):
        raise SpecError(f"metrics must be a list of names, got {metrics!r:.80}.", field="metrics")
    version = version_named(request, body.get("dataset", ""))
    evaluation = evaluation_submit(
        team=request.team, user=request.user, model=_text(body, "model"), prompt=_text(body, "prompt"),  # type: ignore[attr-defined]
        collection=_text(body, "collection"), dataset_version_id=version.pk, split=_text(body, "split", "test"),
        n_rows=body.get("rows", DEFAULT_ROWS), metrics=metrics, max_tokens=body.get("max_tokens", DEFAULT_TOKENS),
    )  # fmt: skip
    return 201, _as_json(evaluation)


@router.get("/evaluations/{int:evaluation_id}", response=dict, url_name="evaluation",
            summary="One evaluation, with what it is compared with")  # fmt: skip
def evaluation(request: HttpRequest, evaluation_id: int) -> dict[str, Any]:
    found = evaluation_of(team=request.team, pk=evaluation_id)  # type: ignore[attr-defined]
    pairs = [
        {
            "with": pair.right.pk, "subject": pair.right.name, "rows": pair.n_rows,
            "metrics": {
                d.name: {"difference": d.difference, "low": d.low, "high": d.high, "p": d.p, "mcnemar": d.mcnemar}
                for d in pair.differences
            },
        }
        for pair in comparisons_with(found)
    ]  # fmt: skip
    return {**_as_json(found), "comparisons": pairs}
