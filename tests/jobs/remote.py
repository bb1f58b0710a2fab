"""What a web process does, done from outside: `python -m tests.jobs.remote ACTION JSON` prints its result as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import django

django.setup()

from jobs.queue import enqueue  # noqa: E402 - models need Django to be set up
from webapp.models import Dataset, DatasetVersion, Run, Team  # noqa: E402
from webapp.services.runs import run_cancel, run_retry, training_submit  # noqa: E402


def submit(*, adapter: str, steps: int, method: str = "lora", n: int = 1) -> list[int]:
    team, _ = Team.objects.get_or_create(slug="t", name="T")
    dataset, _ = Dataset.objects.get_or_create(team=team, name="colours")
    version, _ = DatasetVersion.objects.get_or_create(
        team=team, dataset=dataset, number=1, sha256="a" * 64, task="classification", splits={"train": 20}
    )
    given = {
        "method": method, "base": "tiny-llama", "steps": steps, "batch_size": 2, "micro_batch_size": 2,
        "max_length": 64, "eval_every": 100_000, "eval_rows": 2, "checkpoint_every": 10,
    }  # fmt: skip
    runs = [
        training_submit(team=team, user=None, adapter=adapter, dataset_version_id=version.pk, given=given)
        for _ in range(n)
    ]
    return [run.pk for run in runs]


def cancel(*, run_id: int) -> str:
    return run_cancel(run=Run.objects.get(pk=run_id))


def retry(*, run_id: int) -> None:
    run_retry(run=Run.objects.get(pk=run_id))


def ring(*, run_id: int, n: int) -> None:
    for _ in range(n):
        enqueue("train", run_id)


ACTIONS: dict[str, Any] = {"submit": submit, "cancel": cancel, "retry": retry, "ring": ring}

if __name__ == "__main__":
    print(json.dumps(ACTIONS[sys.argv[1]](**json.loads(sys.argv[2]))))
