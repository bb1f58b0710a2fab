"""Rows on their way from chat into a data set: judged answers that a person keeps, drops or edits first."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from webapp.models.base import TeamScoped


class DraftRow(TeamScoped):
    """One judged answer. `created_by` judged it; the team's members review it."""

    class State(models.TextChoices):
        KEPT = "kept", "Kept"
        DROPPED = "dropped", "Dropped"
        STORED = "stored", "In a data set"

    class Kind(models.TextChoices):
        GOOD = "good", "Good answer"
        CORRECTED = "corrected", "Corrected"

    feedback = models.OneToOneField(
        "webapp.Feedback", null=True, blank=True, on_delete=models.SET_NULL, related_name="draft"
    )
    kind = models.CharField(max_length=10, choices=Kind.choices)
    origin = models.JSONField(default=dict)
    """Numbers of conversation and message, the target that answered, when it was judged: true even after a deletion."""
    messages = models.JSONField(default=list)
    """What was asked, as it was typed: earlier turns of the conversation and the question."""
    answer = models.TextField()
    said = models.TextField(blank=True)
    """What the model had answered."""
    question_digest = models.CharField(max_length=16, db_index=True)
    digest = models.CharField(max_length=16, db_index=True)
    """Of question and answer: rows that share it say the same."""
    state = models.CharField(max_length=10, choices=State.choices, default=State.KEPT, db_index=True)
    edited_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    run = models.ForeignKey("webapp.Run", null=True, blank=True, on_delete=models.SET_NULL, related_name="draft_rows")
    """The run that makes, or made, a version of it."""

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"draft row {self.pk}"

    @property
    def question(self) -> str:
        return str(self.messages[-1]["content"]) if self.messages else ""


class DraftUse(TeamScoped):
    """In which version, under which row number, a draft row lies."""

    row = models.ForeignKey(DraftRow, on_delete=models.CASCADE, related_name="uses")
    version = models.ForeignKey("webapp.DatasetVersion", on_delete=models.CASCADE, related_name="draft_uses")
    number = models.PositiveIntegerField()

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["version", "number"], name="draft_use_number")]

    def __str__(self) -> str:
        return f"row {self.number}"
