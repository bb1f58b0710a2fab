"""Pages of studies as a browser and the study's own process would use them."""

from __future__ import annotations

from typing import Any

from django.test import Client

from webapp.models import Run, RunEvent, Study

RIGHT = {"plain-s17": 4, "zero_shot-s17": 6, "lora-s17": 11, "lora-s18": 10}
"""Right rows by cell of a study of three techniques and two seeds."""
HOSTILE = "<script>alert(1)</script>"


def filled(client: Client, **changes: Any) -> dict[str, Any]:
    """What the browser would send from the untouched form, with `changes`."""
    form = client.get("/studies/new/").context["form"]
    values = {name: form[name].value() for name in form.fields}
    return {name: value for name, value in {**values, **changes}.items() if value is not None and value is not False}


def page_of(client: Client, path: str) -> str:
    response = client.get(path)
    assert response.status_code == 200
    return response.content.decode()


def running(study: Study, *events: tuple[str, dict[str, Any]]) -> None:
    Run.objects.filter(pk=study.run_id).update(
        state=Run.State.RUNNING, progress={"text": "seed 17 is at work", "eta_s": 600}
    )
    RunEvent.objects.bulk_create([RunEvent(run_id=study.run_id, name=name, data=data) for name, data in events])


def cell(key: str, state: str, **values: Any) -> tuple[str, dict[str, Any]]:
    """A `cell` event."""
    technique, _, seed = key.rpartition("-s")
    return "cell", {"key": key, "technique": technique, "seed": int(seed), "share": 1.0, "state": state, **values}
