"""The collection that a study's retrieval searches: named in its spec, pinned by its row.

What was found for the test rows is part of a study's results (passages.json), so that a study which is extended stays
on it, whatever becomes of the collection.
"""

from __future__ import annotations

from ml.errors import SpecError
from ml.specs.study import TECHNIQUES, StudySpec
from webapp.models import Collection, Study, Team
from webapp.selectors.collections import some_chunks


def collection_for(team: Team, spec: StudySpec, study: Study | None = None) -> Collection | None:
    """The collection that `spec` names; None where it names none, and where that of `study` was deleted since. Raises
    SpecError with `field` set when nothing can be found in it."""
    if not spec.collection:
        return None
    if study is not None and study.spec.get("collection") == spec.collection:
        return study.collection
    found = Collection.objects.for_team(team).filter(name=spec.collection).first()
    if found is None:
        raise SpecError(f"Your team has no collection {spec.collection[:80]!r}.", field="collection",
                        hint="The Collections page lists them.")  # fmt: skip
    if any(TECHNIQUES[name].needs_collection for name in spec.techniques) and not some_chunks(found, 1):
        raise SpecError(f"Nothing can be found in {found.name} yet: it has no document that was read.",
                        hint="Add one, or wait until it is read.", field="collection")  # fmt: skip
    return found


def collection_given(study: Study, name: str) -> str:
    """The name that an extension searches. Raises SpecError when the study has another one already."""
    known = str(study.spec.get("collection") or "")
    if known and name and name != known:
        raise SpecError(f"The study stays on the collection {known}, got {name[:80]!r}.", field="collection",
                        hint="Begin another study: figures on two collections would not compare.")  # fmt: skip
    return known or name
