"""What the data set routes take and give. Values are bounded by the services; unknown fields are refused."""

from __future__ import annotations

from typing import Any, Literal

from ninja import Schema
from pydantic import Field

from webapp.api.schemas import Strict


class MappingRequest(Strict):
    format: str | None = Field(None, description="`columns`, or the format that the file was recognised as (default).")
    task: str = Field(..., description="classification, generation, chat or question_answering.")
    prompt: str | None = Field(None, description="A template: {column} stands for the row's value, {{ }} for braces.")
    completion: str | None = Field(None, description="A column or a template: what is learnt.")
    system: str | None = Field(None, description="The same for every row.")
    column: str | None = Field(None, description="Where a conversation or a text lies.")
    turns: Literal["last", "every"] | None = Field(None, description="Which answers of a conversation are learnt.")


class SplitsRequest(Strict):
    kind: Literal["stratified", "random", "column", "files"] = "stratified"
    column: str | None = Field(None, description="For kind column: says train, validation or test.")
    validation: float | None = Field(None, description="A share, 0.1 unless told; for kind files an upload's id.")
    test: float | None = Field(None, description="As validation. Both together may take 0.9.")


class VersionRequest(Strict):
    name: str = Field(..., description="The data set; one that exists gets its next version.")
    mapping: MappingRequest | None = Field(None, description="The upload's own unless told.")
    splits: SplitsRequest | None = Field(None, description="By the column that says it, else drawn, unless told.")
    seed: int = 17
    leave_out: bool = Field(False, description="Leave out rows that cannot be used instead of refusing the file.")
    drop_duplicates: bool = Field(False, description="Keep only the first of equal rows.")
    drop_leaks: bool = Field(False, description="Leave rows out of train that are also held out; for given splits.")


class HubRequest(Strict):
    repo: str = Field(..., description="owner/name of a public data set repository.")
    file: str = ""
    revision: str = ""


class UploadOut(Schema):
    id: int
    object: Literal["upload"] = "upload"
    filename: str
    bytes: int
    sha256: str
    state: Literal["reading", "ready", "refused", "used"]
    error: dict[str, Any] | None = Field(None, description="Why it cannot be used.")
    report: dict[str, Any] = Field(..., description="Format, columns, rows, problems by row; empty until it was read.")
    mapping: dict[str, Any] = Field(..., description="How the columns will be read; suggested until you set it.")
    preview: dict[str, Any] | None = Field(None, description="First rows as the model sees them under this mapping.")
    run: int | None = Field(None, description="The run that makes a version of it, or fetches it.")
    versions: list[str] = Field(..., description="Made of the same bytes.")
    created: int


class Uploads(Schema):
    object: Literal["list"] = "list"
    data: list[UploadOut]


class VersionOut(Schema):
    object: Literal["dataset.version"] = "dataset.version"
    name: str = Field(..., description="As runs and evaluations take it, e.g. support-intents@2.")
    dataset: str
    number: int
    task: str
    labels: list[str] | None = None
    columns: list[str]
    mapping: dict[str, Any]
    splits: dict[str, int] = Field(..., description="Rows of each.")
    rows: int
    sha256: str = Field(..., description="Of everything that training reads.")
    filename: str
    run: int | None = None
    created: int


class VersionReport(VersionOut):
    report: dict[str, Any] = Field(..., description="Duplicates, leakage, empties, labels, lengths, warnings.")


class DatasetOut(Schema):
    object: Literal["dataset"] = "dataset"
    name: str
    description: str
    archived: bool
    newest: str | None = Field(None, description="Its newest version.")
    created: int


class DatasetVersions(DatasetOut):
    versions: list[VersionOut] = Field(..., description="The newest first.")


class Datasets(Schema):
    object: Literal["list"] = "list"
    data: list[DatasetOut]
    has_more: bool


class RowOut(Schema):
    row: int = Field(..., description="Its number in the file that the version was made of.")
    split: str
    messages: list[dict[str, str]]
    completion: str
    answers: list[str] | None = Field(None, description="Every answer that counts as right, where there are several.")
    origin: dict[str, Any] | None = Field(None, description="Where a row from chat came from.")


class Rows(Schema):
    object: Literal["list"] = "list"
    data: list[RowOut]
    next_offset: int | None = Field(None, description="Where to go on; null at the end.")


class Found(Schema):
    n: int
    examples: list[dict[str, Any]] = []


class DiffOut(Schema):
    object: Literal["dataset.diff"] = "dataset.diff"
    before: str
    after: str
    n_before: int
    n_after: int
    same: Found
    added: Found
    removed: Found
    changed: Found
    moved: Found = Field(..., description="To another split.")


def given_of(body: Schema | None) -> dict[str, Any] | None:
    """What the client sent, without what it left out."""
    return None if body is None else body.dict(exclude_none=True, exclude_unset=True)
