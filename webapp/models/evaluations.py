"""Evaluations: a subject measured on rows of a data set version, its answered rows, and pairs on the same rows."""

from __future__ import annotations

from django.db import models

from webapp.models.base import TeamScoped


class Evaluation(TeamScoped):
    """Made when it is asked for; its figures are written once, when its run has succeeded."""

    subject = models.CharField(max_length=260)
    """What is measured, pinned: `base`, `triage@3`, `prompt:reply@2`, `triage@3 + prompt:reply@2`."""
    adapter_version = models.ForeignKey(
        "webapp.AdapterVersion", null=True, blank=True, on_delete=models.CASCADE, related_name="evaluations"
    )
    prompt_version = models.ForeignKey(
        "webapp.PromptVersion", null=True, blank=True, on_delete=models.CASCADE, related_name="evaluations"
    )
    collection = models.ForeignKey(
        "webapp.Collection", null=True, blank=True, on_delete=models.SET_NULL, related_name="evaluations"
    )
    collection_name = models.CharField(max_length=80, blank=True)
    """Kept when the collection is deleted: the figures were made with it."""
    base_name = models.CharField(max_length=120)
    dataset_version = models.ForeignKey("webapp.DatasetVersion", on_delete=models.PROTECT, related_name="evaluations")
    split = models.CharField(max_length=12)
    n_rows = models.PositiveIntegerField()
    """The split's first rows, so that two subjects are measured on the same ones."""
    spec = models.JSONField(default=dict)
    """metrics, is_scored, max_tokens, seed."""
    run = models.OneToOneField(
        "webapp.Run", null=True, blank=True, on_delete=models.SET_NULL, related_name="evaluation"
    )
    results = models.CharField(max_length=64, blank=True, db_index=True)
    """sha256 of the answered rows, which lie under `evaluations/<sha256>`; empty until it is done."""
    main_metric = models.CharField(max_length=20, blank=True)
    metrics = models.JSONField(default=dict, blank=True)
    intervals = models.JSONField(default=dict, blank=True)
    figures = models.JSONField(default=dict, blank=True)
    """n_right, n_errors, confusion, bins, tokens, latency, seconds."""
    versions = models.JSONField(default=dict, blank=True)
    """Libraries, engines and the base model's fingerprint."""

    class Meta:
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["dataset_version", "split"], name="evaluation_rows")]

    def __str__(self) -> str:
        return f"{self.name} on {self.dataset_version}"

    @property
    def name(self) -> str:
        """The subject with its collection."""
        return f"{self.subject} + {self.collection_name}" if self.collection_name else self.subject

    @property
    def is_done(self) -> bool:
        return bool(self.results)

    @property
    def storage_key(self) -> str:
        return f"evaluations/{self.results}"


class EvaluationRow(models.Model):
    """Where an answered row stands in the results, and what it is filtered by; its texts are in the storage."""

    evaluation = models.ForeignKey(Evaluation, on_delete=models.CASCADE, related_name="rows")
    place = models.PositiveIntegerField()
    row = models.PositiveIntegerField()
    """Its number in the person's own file."""
    is_right = models.BooleanField()
    score = models.FloatField()
    is_error = models.BooleanField(default=False)
    """It could not be answered, and counts as wrong."""
    expected_at = models.SmallIntegerField(null=True)
    """Place of the expected label among the data set's; null for texts."""
    got_at = models.SmallIntegerField(null=True)
    """Place of the label that was given; -1 when the answer was none."""
    offset = models.PositiveBigIntegerField()
    n_bytes = models.PositiveIntegerField()

    class Meta:
        ordering = ["place"]
        constraints = [models.UniqueConstraint(fields=["evaluation", "place"], name="evaluation_place")]
        indexes = [models.Index(fields=["evaluation", "row"], name="evaluation_row_number")]

    def __str__(self) -> str:
        return f"row {self.row} of evaluation {self.evaluation_id}"


class EvaluationComparison(TeamScoped):
    """Two evaluations on the rows that both answered; `a` is the older one."""

    a = models.ForeignKey(Evaluation, on_delete=models.CASCADE, related_name="+")
    b = models.ForeignKey(Evaluation, on_delete=models.CASCADE, related_name="+")
    n_rows = models.PositiveIntegerField()
    metrics = models.JSONField(default=dict)
    """{"accuracy": {a, b, difference (a minus b), low, high, p, mcnemar}, …}"""

    class Meta:
        ordering = ["-created_at"]
        constraints = [models.UniqueConstraint(fields=["a", "b"], name="one_comparison_per_pair")]

    def __str__(self) -> str:
        return f"evaluations {self.a_id} and {self.b_id}"
