"""Batches of the API: files of requests and of answers, and the run that makes one of the other."""

from __future__ import annotations

import uuid

from django.db import models

from webapp.models.base import TeamScoped


class ApiFile(TeamScoped):
    """A file of /v1/files. Never changes once made."""

    class Purpose(models.TextChoices):
        BATCH = "batch", "Requests"
        BATCH_OUTPUT = "batch_output", "Answers"

    key = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    filename = models.CharField(max_length=255)
    """For people."""
    purpose = models.CharField(max_length=20, choices=Purpose.choices)
    size_bytes = models.BigIntegerField()

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return self.filename

    @property
    def api_id(self) -> str:
        return f"file-{self.key.hex}"

    @property
    def storage_key(self) -> str:
        return f"files/{self.key.hex}"


class Batch(TeamScoped):
    """What was asked for; how far it is stands in its run, what came of it in its files."""

    key = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    endpoint = models.CharField(max_length=40)
    input_file = models.ForeignKey(ApiFile, null=True, on_delete=models.SET_NULL, related_name="+")
    input_name = models.CharField(max_length=40)
    """The input's id, also once it is deleted."""
    output_file = models.ForeignKey(ApiFile, null=True, on_delete=models.SET_NULL, related_name="+")
    error_file = models.ForeignKey(ApiFile, null=True, on_delete=models.SET_NULL, related_name="+")
    n_done = models.PositiveIntegerField(default=0)
    n_failed = models.PositiveIntegerField(default=0)
    """Of the requests that were answered, once there are files."""
    is_published = models.BooleanField(default=False)
    metadata = models.JSONField(default=dict, blank=True)
    """The client's own texts."""
    run = models.OneToOneField("webapp.Run", null=True, on_delete=models.SET_NULL, related_name="batch")

    class Meta:
        ordering = ["-pk"]
        verbose_name_plural = "batches"

    def __str__(self) -> str:
        return self.api_id

    @property
    def api_id(self) -> str:
        return f"batch_{self.key.hex}"
