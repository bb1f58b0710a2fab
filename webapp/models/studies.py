"""Studies: techniques measured on one data set version by one metric on the same rows, and each measured cell."""

from __future__ import annotations

from django.db import models

from ml.specs.measures import EVALUATION_METRICS
from webapp.models.base import TeamScoped


class Study(TeamScoped):
    """Grows by extending; what it has measured is published as a whole each time. It stays on its data set version."""

    name = models.CharField(max_length=120)
    """For people; need not be unique."""
    spec = models.JSONField(default=dict)
    """StudySpec of ml/specs/study.py, as the newest run was given it."""
    dataset_version = models.ForeignKey("webapp.DatasetVersion", on_delete=models.PROTECT, related_name="studies")
    collection = models.ForeignKey(
        "webapp.Collection", null=True, blank=True, on_delete=models.SET_NULL, related_name="studies"
    )
    """What retrieval searches; its name stays in the spec when it is deleted."""
    base_name = models.CharField(max_length=120)
    metric = models.CharField(max_length=20)
    run = models.OneToOneField("webapp.Run", null=True, blank=True, on_delete=models.SET_NULL, related_name="study")
    """The newest one; older ones belong to what was measured before it was extended."""
    board = models.JSONField(default=dict, blank=True)
    """board.json as it was last published."""
    about = models.JSONField(default=dict, blank=True)
    """study.json without the spec: rows, labels, fingerprints, command, versions, machine, seconds."""
    results = models.CharField(max_length=64, blank=True, db_index=True)
    """sha256 over the files' hashes of what was last published, which lies under `studies/<sha256>`."""
    planned = models.JSONField(default=dict, blank=True)
    """The plan it was started with: time and memory of each technique."""
    is_archived = models.BooleanField(default=False)

    class Meta:
        ordering = ["-created_at"]
        verbose_name_plural = "studies"

    def __str__(self) -> str:
        return self.name

    @property
    def is_done(self) -> bool:
        """Something was published."""
        return bool(self.results)

    @property
    def metric_label(self) -> str:
        known = EVALUATION_METRICS.get(self.metric)
        return known.label if known else self.metric

    @property
    def storage_key(self) -> str:
        return f"studies/{self.results}"


class StudyEntry(models.Model):
    """One measured cell: a technique with a seed on a share of the training rows."""

    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="entries")
    key = models.CharField(max_length=80)
    """`lora-s17`, with a smaller share of the rows `lora-s17-0.1`."""
    technique = models.CharField(max_length=40)
    """Key of ml.specs.study.TECHNIQUES."""
    seed = models.IntegerField()
    share = models.FloatField(default=1.0)
    state = models.CharField(max_length=12)
    """done, failed or left_out."""
    value = models.FloatField(null=True, blank=True)
    """The study's metric; null where nothing was measured."""
    low = models.FloatField(null=True, blank=True)
    high = models.FloatField(null=True, blank=True)
    summary = models.JSONField(default=dict, blank=True)
    """The cell without its tries, curve and spec, which are read from the storage."""
    compared = models.JSONField(default=dict, blank=True)
    """Row by row with what it may have to be judged against once it is promoted: {"entries": {key: {n_rows, metrics}},
    "evaluations": {id: …}}, each other's figures minus its own."""
    adapter_version = models.ForeignKey(
        "webapp.AdapterVersion", null=True, blank=True, on_delete=models.SET_NULL, related_name="study_entries"
    )
    """What it became in the library."""
    prompt_version = models.ForeignKey(
        "webapp.PromptVersion", null=True, blank=True, on_delete=models.SET_NULL, related_name="study_entries"
    )

    class Meta:
        ordering = ["id"]
        verbose_name_plural = "study entries"
        constraints = [models.UniqueConstraint(fields=["study", "key"], name="study_entry_key")]

    def __str__(self) -> str:
        return f"{self.key} of study {self.study_id}"
