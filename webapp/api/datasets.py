"""/v1/datasets: the team's data sets, their versions with report, rows, differences and downloads. Reads only.

Guarantees: only data sets of the token's team are there; no version is ever held in memory as a whole.
"""

from __future__ import annotations

from typing import Any, Literal

from django.http import HttpRequest, StreamingHttpResponse
from ninja import Query, Router

from ml.errors import NotFoundError, SpecError
from webapp.api.dataset_schemas import Datasets, DatasetVersions, DiffOut, Rows, VersionReport
from webapp.models import Dataset, DatasetVersion, Team
from webapp.selectors import dataset_rows
from webapp.selectors.datasets import datasets_of, version_of
from webapp.services.dataset_diffs import diff_find

router = Router(tags=["datasets"])
KINDS = {
    "jsonl": (dataset_rows.as_jsonl, "application/x-ndjson"),
    "csv": (dataset_rows.as_csv, "text/csv; charset=utf-8"),
}
MAX_PAGE, MAX_ROWS = 200, 1_000


def _bounded(name: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise SpecError(f"{name} must lie between {low} and {high:,}, got {value}.", field=name)
    return value


def _dataset(team: Team, name: str) -> Dataset:
    found = datasets_of(team, with_archived=True).filter(name=name).first() if "\x00" not in name else None
    if found is None:
        raise NotFoundError(f"There is no data set {name[:80]!r} in this team.", hint="GET /v1/datasets lists them.",
                            field="name")  # fmt: skip
    return found


def _version(request: HttpRequest, name: str, number: int) -> DatasetVersion:
    return version_of(_dataset(request.team, name), number)  # type: ignore[attr-defined]


def _dataset_json(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name, "description": dataset.description, "archived": dataset.is_archived,
        "newest": f"{dataset.name}@{dataset.newest}" if dataset.newest else None,  # type: ignore[attr-defined]
        "created": int(dataset.created_at.timestamp()),
    }  # fmt: skip


def _version_json(version: DatasetVersion) -> dict[str, Any]:
    return {
        "name": str(version), "dataset": version.dataset.name, "number": version.number, "task": version.task,
        "labels": version.labels, "columns": version.columns, "mapping": version.mapping, "splits": version.splits,
        "rows": version.n_rows, "sha256": version.sha256, "filename": version.filename, "run": version.run_id,
        "created": int(version.created_at.timestamp()),
    }  # fmt: skip


@router.get("/datasets", response=Datasets, url_name="datasets", summary="List the team's data sets")
def datasets(request: HttpRequest, archived: bool = False, limit: int = 50, offset: int = 0) -> Any:
    """By name; `archived` has those that were put away as well."""
    limit = _bounded("limit", limit, 1, MAX_PAGE)
    offset = _bounded("offset", offset, 0, 1_000_000)
    rows = datasets_of(request.team, with_archived=archived).order_by("name")  # type: ignore[attr-defined]
    found = list(rows[offset : offset + limit + 1])
    return {"data": [_dataset_json(dataset) for dataset in found[:limit]], "has_more": len(found) > limit}


@router.get("/datasets/{name}", response=DatasetVersions, url_name="dataset", summary="One data set with its versions")
def dataset(request: HttpRequest, name: str) -> Any:
    found = _dataset(request.team, name)  # type: ignore[attr-defined]
    versions = found.versions.select_related("dataset")
    return {**_dataset_json(found), "versions": [_version_json(version) for version in versions]}


@router.get("/datasets/{name}/versions/{int:number}", response=VersionReport, url_name="dataset_version",
            summary="One version with its report")  # fmt: skip
def version(request: HttpRequest, name: str, number: int) -> Any:
    found = _version(request, name, number)
    return {**_version_json(found), "report": found.stats}


@router.get("/datasets/{name}/versions/{int:number}/rows", response=Rows, url_name="dataset_rows",
            summary="Rows of a version, paged", exclude_unset=True)  # fmt: skip
def rows(
    request: HttpRequest, name: str, number: int, split: Literal["", "train", "validation", "test"] = "",
    query: str = Query("", description="Text to find; `label:x` finds a label."), limit: int = 100, offset: int = 0,
) -> Any:  # fmt: skip
    """Whole rows; fewer than `limit` where they are long. Go on at `next_offset`."""
    limit = _bounded("limit", limit, 1, MAX_ROWS)
    offset = _bounded("offset", offset, 0, 1_000_000)
    found = _version(request, name, number)
    page, is_last = dataset_rows.rows_slice(found, split=split, query=query, first=offset, most=limit)
    return {"object": "list", "data": page, "next_offset": None if is_last else offset + len(page)}


@router.get("/datasets/{name}/versions/{int:number}/export", url_name="dataset_export",
            summary="All rows of a version in one file")  # fmt: skip
def export(request: HttpRequest, name: str, number: int, format: Literal["jsonl", "csv"] = "jsonl") -> Any:
    """As it comes from the page: JSON lines, or CSV whose cells no spreadsheet takes for a formula."""
    found = _version(request, name, number)
    lines, content_type = KINDS[format]
    response = StreamingHttpResponse(dataset_rows.streamed(lines(found)), content_type=content_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}-{number}.{format}"'
    return response


@router.get("/datasets/{name}/versions/{int:number}/diff", response=DiffOut, url_name="dataset_diff",
            summary="What changed since another version")  # fmt: skip
def diff(request: HttpRequest, name: str, number: int, against: int | None = None) -> Any:
    """`against` is the version before unless told. Counts, and the first examples of each kind."""
    after = _version(request, name, number)
    if against is None:
        against = after.dataset.versions.filter(number__lt=number).values_list("number", flat=True).first() or number
    before = version_of(after.dataset, _bounded("against", against, 1, 10**8))
    return {"before": str(before), "after": str(after), **diff_find(old=before, new=after)}
