"""Conversations: a question, the answers of its targets, and what the answers stand on."""

from __future__ import annotations

import uuid

from django.db import models

from webapp.models.base import TeamScoped


class Conversation(TeamScoped):
    """Visible to its maker only; the team owns it."""

    title = models.CharField(max_length=120, default="New conversation")
    targets = models.JSONField(default=list, blank=True)
    """Target names last used, e.g. ["base", "support-intents@production"]."""
    collection = models.ForeignKey(
        "webapp.Collection", null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    settings = models.JSONField(default=dict, blank=True)
    """Sampling: temperature, top_p, max_tokens, seed."""
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["-updated_at"]

    def __str__(self) -> str:
        return self.title


class Message(TeamScoped):
    """A question, or one target's answer to it. Answers to one question share `turn`."""

    class Role(models.TextChoices):
        USER = "user", "Question"
        ASSISTANT = "assistant", "Answer"

    class State(models.TextChoices):
        QUEUED = "queued", "Waiting"
        STREAMING = "streaming", "Answering"
        DONE = "done", "Done"
        STOPPED = "stopped", "Stopped"
        FAILED = "failed", "Failed"

    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="messages")
    turn = models.PositiveIntegerField()
    role = models.CharField(max_length=10, choices=Role.choices)
    target = models.CharField(max_length=160, blank=True)
    """The resolved name, e.g. `support-intents@3`, or `base`."""
    method = models.CharField(max_length=40, blank=True)
    request_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    """Names the answer's token stream."""
    content = models.TextField(blank=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.DONE)
    error = models.JSONField(null=True, blank=True)
    usage = models.JSONField(default=dict, blank=True)
    info = models.JSONField(default=dict, blank=True)
    """Engine, first and last step, rows it shared steps with, time to first token, context shares."""
    is_superseded = models.BooleanField(default=False)
    """True when the answer was regenerated."""

    class Meta:
        ordering = ["turn", "id"]
        indexes = [models.Index(fields=["conversation", "turn"], name="message_turn")]

    def __str__(self) -> str:
        return f"{self.role} in turn {self.turn}"


class Citation(TeamScoped):
    """A chunk that was given to an answer, as it was then: stays true after the collection is re-indexed."""

    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="citations")
    number = models.PositiveIntegerField()
    version = models.ForeignKey("webapp.DocumentVersion", null=True, on_delete=models.SET_NULL, related_name="+")
    title = models.CharField(max_length=255)
    text = models.TextField()
    page = models.PositiveIntegerField(null=True, blank=True)
    start = models.PositiveIntegerField()
    end = models.PositiveIntegerField()
    score = models.FloatField()
    is_cited = models.BooleanField(default=False)
    """True when the answer's text carries its marker."""

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["message", "number"], name="citation_number")]

    def __str__(self) -> str:
        return f"[{self.number}] {self.title}"


class Feedback(TeamScoped):
    """A thumb, and the answer it should have been."""

    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="feedback")
    is_good = models.BooleanField()
    correction = models.TextField(blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["message", "created_by"], name="one_feedback_per_person")]

    def __str__(self) -> str:
        return "good" if self.is_good else "bad"
