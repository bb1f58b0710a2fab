"""Data sets: an upload being looked at, the named data set, and its immutable versions."""

from __future__ import annotations

import uuid

from django.db import models

from webapp.models.base import TeamScoped


class Upload(TeamScoped):
    """A raw file that came in and is not a dataset version yet. Stored under a UUID; the name is only for people."""

    class State(models.TextChoices):
        READING = "reading", "Being read"
        READY = "ready", "Ready to map"
        REFUSED = "refused", "Refused"
        USED = "used", "Used"

    key = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    filename = models.CharField(max_length=255)
    size_bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64, db_index=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.READING)
    dataset = models.ForeignKey("webapp.Dataset", null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    report = models.JSONField(default=dict, blank=True)
    """What the reader found: format, columns, n_rows, head rows, suggested mapping, problems with row numbers."""
    mapping = models.JSONField(default=dict, blank=True)
    preview = models.JSONField(default=dict, blank=True)
    """Rows as the model sees them under `mapping`."""
    error = models.JSONField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.filename

    @property
    def storage_key(self) -> str:
        return f"uploads/{self.key}"


class Dataset(TeamScoped):
    name = models.SlugField(max_length=80)
    description = models.CharField(max_length=300, blank=True)
    is_archived = models.BooleanField(default=False)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["team", "name"], name="dataset_name_per_team")]

    def __str__(self) -> str:
        return self.name


class DatasetVersion(TeamScoped):
    """Never changes once made. Its files lie under `datasets/<sha256>` in the storage."""

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    sha256 = models.CharField(max_length=64, db_index=True)
    task = models.CharField(max_length=20)
    labels = models.JSONField(null=True, blank=True)
    columns = models.JSONField(default=list)
    mapping = models.JSONField(default=dict)
    splits = models.JSONField(default=dict)
    """Rows a split: {"train": n, "validation": n, "test": n}."""
    stats = models.JSONField(default=dict)
    """Duplicates, empties, leakage, label counts, token lengths, samples as the model sees them."""
    filename = models.CharField(max_length=255, blank=True)
    run = models.OneToOneField("webapp.Run", null=True, blank=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["dataset", "number"], name="dataset_version_number")]

    def __str__(self) -> str:
        return f"{self.dataset.name}@{self.number}"

    @property
    def n_rows(self) -> int:
        return sum(self.splits.values())

    @property
    def storage_key(self) -> str:
        return f"datasets/{self.sha256}"
