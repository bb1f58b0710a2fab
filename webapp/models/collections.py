"""Collections of documents that answers may cite."""

from __future__ import annotations

from django.db import models

from webapp.models.base import TeamScoped


class Collection(TeamScoped):
    name = models.SlugField(max_length=80)
    description = models.CharField(max_length=300, blank=True)
    chunk_size = models.PositiveIntegerField(default=160)
    """Tokens of the embedding model a chunk may have."""
    chunk_overlap = models.PositiveIntegerField(default=32)
    top_k = models.PositiveIntegerField(default=3)
    threshold = models.FloatField(default=0.25)
    """Cosine similarity below which a chunk is no evidence."""
    embedder = models.CharField(max_length=120, default="minilm-l6")
    refusal = models.CharField(max_length=300, default="The documents in this collection do not answer that question.")

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["team", "name"], name="collection_name_per_team")]

    def __str__(self) -> str:
        return self.name


class Document(TeamScoped):
    """A document by name; its content is in its versions."""

    collection = models.ForeignKey(Collection, on_delete=models.CASCADE, related_name="documents")
    title = models.CharField(max_length=255)
    is_deleted = models.BooleanField(default=False)

    class Meta:
        ordering = ["title"]

    def __str__(self) -> str:
        return self.title


class DocumentVersion(TeamScoped):
    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        READING = "reading", "Being read"
        LIVE = "live", "Live"
        REPLACED = "replaced", "Replaced"
        REFUSED = "refused", "Cannot be read"

    document = models.ForeignKey(Document, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    sha256 = models.CharField(max_length=64, db_index=True)
    filename = models.CharField(max_length=255)
    size_bytes = models.BigIntegerField()
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING, db_index=True)
    error = models.JSONField(null=True, blank=True)
    text = models.TextField(blank=True)
    pages = models.JSONField(default=list, blank=True)
    """Character offset at which each page starts; empty for formats without pages."""
    n_chunks = models.PositiveIntegerField(default=0)
    run = models.ForeignKey("webapp.Run", null=True, blank=True, on_delete=models.SET_NULL, related_name="documents")

    class Meta:
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["document", "number"], name="document_version_number")]

    def __str__(self) -> str:
        return f"{self.document.title} version {self.number}"

    @property
    def storage_key(self) -> str:
        return f"documents/{self.sha256}"


class Chunk(TeamScoped):
    """An exact piece of a document version: `version.text[start:end]`."""

    version = models.ForeignKey(DocumentVersion, on_delete=models.CASCADE, related_name="chunks")
    number = models.PositiveIntegerField()
    text = models.TextField()
    page = models.PositiveIntegerField(null=True, blank=True)
    start = models.PositiveIntegerField()
    end = models.PositiveIntegerField()
    n_tokens = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["version", "number"], name="chunk_number")]

    def __str__(self) -> str:
        return f"chunk {self.number} of {self.version_id}"
