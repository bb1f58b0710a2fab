"""Runs: the database is the queue. Every change of state is a conditional UPDATE with a fencing number (JOBS.md)."""

from __future__ import annotations

from django.db import models

from webapp.models.base import TeamScoped


class Run(TeamScoped):
    """One piece of long work: training, reading a data set, ingesting documents."""

    class Kind(models.TextChoices):
        TRAIN = "train", "Training"
        VALIDATE = "validate", "Data set"
        INGEST = "ingest", "Documents"
        IMPORT = "import", "Import"
        EXPORT = "export", "Export"
        EVALUATE = "evaluate", "Evaluation"
        STUDY = "study", "Study"
        BATCH = "batch", "Batch"

    class State(models.TextChoices):
        QUEUED = "queued", "Waiting"
        LEASED = "leased", "Starting"
        RUNNING = "running", "Running"
        PUBLISHING = "publishing", "Publishing"
        SUCCEEDED = "succeeded", "Done"
        FAILED = "failed", "Failed"
        CANCELLED = "cancelled", "Cancelled"

    TERMINAL = (State.SUCCEEDED, State.FAILED, State.CANCELLED)
    ACTIVE = (State.LEASED, State.RUNNING, State.PUBLISHING)

    kind = models.CharField(max_length=10, choices=Kind.choices)
    title = models.CharField(max_length=160)
    spec = models.JSONField(default=dict)
    """What the child process is given, as saved at submission."""
    state = models.CharField(max_length=12, choices=State.choices, default=State.QUEUED, db_index=True)
    attempt = models.PositiveIntegerField(default=0)
    """Attempts consumed; being stopped for a restart consumes none."""
    fence = models.PositiveBigIntegerField(default=0)
    """Grows with every claim; a writer with an older number writes nothing."""
    owner = models.CharField(max_length=120, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True, db_index=True)
    is_cancel_requested = models.BooleanField(default=False)
    waiting_for = models.CharField(max_length=200, blank=True)
    """Why it has not started yet, for people."""
    progress = models.JSONField(default=dict, blank=True)
    """Last step or progress event: done, total, loss, eta_s, tokens_per_s, peak_bytes …"""
    result = models.JSONField(default=dict, blank=True)
    """Metrics and figures of a finished run."""
    error = models.JSONField(null=True, blank=True)
    """ColdframeError.as_dict() of the failure that ended it."""
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    dataset_version = models.ForeignKey(
        "webapp.DatasetVersion", null=True, blank=True, on_delete=models.PROTECT, related_name="runs"
    )

    class Meta:
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["state", "lease_until"], name="run_state_lease")]

    def __str__(self) -> str:
        return f"{self.title} #{self.pk}"

    @property
    def is_over(self) -> bool:
        return self.state in self.TERMINAL


class RunEvent(models.Model):
    """A JSON event line of a run, kept in order: phases, evaluations, checkpoints, log lines. Steps go to RunMetric."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="events")
    name = models.CharField(max_length=20)
    data = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.name} of run {self.run_id}"


class RunMetric(models.Model):
    """One training step's figures; a resumed attempt overwrites the steps it repeats."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="metrics")
    step = models.PositiveIntegerField()
    data = models.JSONField(default=dict)

    class Meta:
        ordering = ["step"]
        constraints = [models.UniqueConstraint(fields=["run", "step"], name="one_metric_per_step")]

    def __str__(self) -> str:
        return f"step {self.step} of run {self.run_id}"


class Outbox(models.Model):
    """A message to Celery that is written with the row it is about and sent after commit; the reconciler re-sends."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="outbox")
    attempt = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    sent_at = models.DateTimeField(null=True, blank=True, db_index=True)

    class Meta:
        ordering = ["id"]
        verbose_name_plural = "outbox"

    def __str__(self) -> str:
        return f"doorbell for run {self.run_id}"
