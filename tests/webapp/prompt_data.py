"""A small stored data set version for tests of prompts: its files in the storage, without an ingest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from webapp import storage
from webapp.models import Dataset, DatasetVersion, Team

TRAIN = (
    ("The whole street is dark.", "outage"), ("You charged me twice.", "billing"), ("No light at all.", "outage"),
    ("My invoice is wrong.", "billing"), ("The router blinks red.", "internet"), ("No page loads.", "internet"),
)  # fmt: skip
VALIDATION = (("The lamp is dead.", "outage"), ("I paid too much.", "billing"), ("Wifi is gone.", "internet"))
TEST = (("It is dark here.", "outage"), ("Where is my refund?", "billing"))
PROMPT = "Name the queue.\nMessage: {text}\nQueue:"


def stored(team: Team, *, name: str = "support", mapping: dict[str, Any] | None = None, train: Any = TRAIN,
           validation: Any = VALIDATION, test: Any = TEST, **fields: Any) -> DatasetVersion:  # fmt: skip
    """The version of a new data set with these (text, answer) rows; rows are numbered from 1 through all splits."""
    mapping = mapping or {"format": "columns", "task": "classification", "prompt": PROMPT, "completion": "{label}"}
    sha = hashlib.sha256(json.dumps([name, mapping, train, validation, test, team.pk]).encode()).hexdigest()
    folder = storage.root() / "datasets" / sha
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for split, rows in (("train", train), ("validation", validation), ("test", test)):
        lines = []
        for text, answer in rows:
            number += 1
            content = str(mapping.get("prompt", "{text}")).replace("{text}", text)
            row = {"row": number, "messages": [{"role": "user", "content": content}], "completion": answer}
            lines.append(json.dumps(row) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    dataset = Dataset.objects.create(team=team, name=name)
    labels = sorted({answer for _, answer in train})
    given = {"task": "classification", "labels": labels, **fields}
    return DatasetVersion.objects.create(
        team=team, dataset=dataset, number=1, sha256=sha, mapping=mapping, columns=["text", "label"],
        splits={"train": len(train), "validation": len(validation), "test": len(test)}, **given,
    )  # fmt: skip
