"""Where a study stands, as a column that its list can be narrowed by.

Used by webapp.listing (`exact={"state": "standing"}`); what a row shows: `rows_of` in selectors/studies.py. Reads only.
"""

from __future__ import annotations

from django.db.models import Case, CharField, Q, QuerySet, Value, When

from webapp.models import Run, Study, Team
from webapp.selectors.studies import studies_of

STANDINGS = {"open": "Filling in", "done": "Done", "stopped": "Stopped", "failed": "Failed"}
"""By value of ?state=, in the order of the choice."""
SEARCHED = ("name", "base_name", "dataset_version__dataset__name")
SORTABLE = {"name": "name", "data": "dataset_version__dataset__name", "started": "created_at"}


def listed(team: Team, *, archived: bool = False) -> QuerySet[Study]:
    """Studies with `standing`, a key of STANDINGS."""
    standing = Case(
        When(run__state__in=[*Run.ACTIVE, Run.State.QUEUED], then=Value("open")),
        When(run__state=Run.State.FAILED, then=Value("failed")),
        When(Q(run__state=Run.State.SUCCEEDED) | Q(run=None) & ~Q(results=""), then=Value("done")),
        default=Value("stopped"), output_field=CharField(),
    )  # fmt: skip
    return studies_of(team, archived=archived).annotate(standing=standing)
