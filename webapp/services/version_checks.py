"""What a data set version must be for something to be learnt or measured on it; said before anything is queued."""

from __future__ import annotations

from ml.errors import SpecError
from webapp.models import DatasetVersion


def labels_differ_check(version: DatasetVersion, what: str) -> None:
    """Raises SpecError when every row has the same label: then any answer that knows no other is always right."""
    if len(version.labels or ()) == 1:
        raise SpecError(
            f"Every row of {version} has the same label, {version.labels[0][:80]!r}: there is nothing to {what}.",
            hint="Bring rows with a second label, or make a version as free text.", field="dataset",
        )  # fmt: skip
