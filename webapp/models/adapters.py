"""The team library: base models, adapters, their immutable versions, and the names that point at versions."""

from __future__ import annotations

from django.db import models

from webapp.models.base import TeamScoped


class BaseModel(models.Model):
    """A frozen model in the models folder. Shared by all teams."""

    name = models.SlugField(unique=True, max_length=120)
    source = models.CharField(max_length=200, blank=True)
    revision = models.CharField(max_length=80, blank=True)
    licence = models.CharField(max_length=80, blank=True)
    fingerprint = models.CharField(max_length=64, blank=True)
    family = models.CharField(max_length=20)
    """decoder, encoder, encoder_decoder or embedding."""
    config = models.JSONField(default=dict, blank=True)
    """Parameters, layers, width, context, bytes on disk."""
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Adapter(TeamScoped):
    name = models.SlugField(max_length=80)
    description = models.CharField(max_length=300, blank=True)
    is_retired = models.BooleanField(default=False)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["team", "name"], name="adapter_name_per_team")]

    def __str__(self) -> str:
        return self.name


class AdapterVersion(TeamScoped):
    """Never changes once made. Its files lie under `artifacts/<artifact>` in the storage."""

    adapter = models.ForeignKey(Adapter, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    artifact = models.CharField(max_length=64, db_index=True)
    """sha256 of the artifact's manifest.json."""
    method = models.CharField(max_length=40)
    form = models.CharField(max_length=20)
    base_name = models.CharField(max_length=120)
    base_fingerprint = models.CharField(max_length=64)
    size_bytes = models.BigIntegerField(default=0)
    n_trainable = models.BigIntegerField(default=0)
    manifest = models.JSONField(default=dict)
    metrics = models.JSONField(default=dict)
    """{"test": {"accuracy": …, "intervals": {"accuracy": [lo, hi]}, "n_rows": …}, "plain": {…}}"""
    dataset_version = models.ForeignKey(
        "webapp.DatasetVersion", null=True, blank=True, on_delete=models.SET_NULL, related_name="adapter_versions"
    )
    run = models.OneToOneField(
        "webapp.Run", null=True, blank=True, on_delete=models.SET_NULL, related_name="adapter_version"
    )

    class Meta:
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["adapter", "number"], name="adapter_version_number")]

    def __str__(self) -> str:
        return f"{self.adapter.name}@{self.number}"

    @property
    def storage_key(self) -> str:
        return f"artifacts/{self.artifact}"


class Alias(TeamScoped):
    """`production`, `staging` …: a name that is moved from version to version."""

    adapter = models.ForeignKey(Adapter, on_delete=models.CASCADE, related_name="aliases")
    name = models.SlugField(max_length=40)
    version = models.ForeignKey(AdapterVersion, on_delete=models.PROTECT, related_name="aliases")
    moved_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "aliases"
        constraints = [models.UniqueConstraint(fields=["adapter", "name"], name="alias_per_adapter")]

    def __str__(self) -> str:
        return f"{self.adapter.name}@{self.name}"
