"""What admins do to engines: drain them, so that a run may have their memory, and let them serve again.

Guarantees: both hold for the engines of one base model on one host, of all teams, and leave a line in the audit trail.
How an engine obeys is in jobs/engine_drains.py.
"""

from __future__ import annotations

import time
from typing import Any

from django.db import transaction

from jobs import stream
from ml.errors import NotFoundError
from webapp.models import Team
from webapp.services.teams import audit


@transaction.atomic
def engine_drain(*, team: Team, user: Any, base: str, host: str) -> None:
    """Has them finish their answers, give their memory back and stay away. Raises NotFoundError, UnavailableError."""
    if not any((beat.get("base"), beat.get("host")) == (base, host) for beat in stream.engines()):
        raise NotFoundError(f"No engine of {base!r:.120} runs on {host!r:.120}.", hint="Look at the Engine page.")
    audit(team=team, user=user, action="engine.drain", subject=f"{base} on {host}")
    wanted = stream.Drain(base=base, host=host, by=user.get_username(), team_id=team.pk, at=time.time())
    if not stream.drain(wanted):
        raise NotFoundError(f"The engine of {base} on {host} is drained already.", hint="Look at the Engine page.")


@transaction.atomic
def engine_serve(*, team: Team, user: Any, base: str, host: str) -> None:
    """Has them load their model and answer again. Raises NotFoundError, UnavailableError."""
    audit(team=team, user=user, action="engine.serve", subject=f"{base} on {host}")
    if not stream.undrain(base, host):
        raise NotFoundError(f"No engine of {base!r:.120} on {host!r:.120} is drained.", hint="Look at the Engine page.")
