"""Hard prompts as versioned objects of the library, and the names that point at their versions."""

from __future__ import annotations

from django.db import models

from webapp.models.base import TeamScoped


class Prompt(TeamScoped):
    name = models.SlugField(max_length=80)
    description = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["team", "name"], name="prompt_name_per_team")]

    def __str__(self) -> str:
        return self.name


def one_field() -> list[str]:
    return ["question"]


class PromptVersion(TeamScoped):
    """Never changes once made. What it sends is built by ml/specs/prompting.py."""

    class Technique(models.TextChoices):
        ZERO_SHOT = "zero_shot", "Zero-shot"
        FEW_SHOT = "few_shot", "Few-shot"
        CHAIN_OF_THOUGHT = "chain_of_thought", "Chain of thought"

    class Pick(models.TextChoices):
        FIXED = "fixed", "Fixed"
        RANDOM = "random", "Random"
        NEAREST = "nearest", "Nearest"

    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    base_name = models.CharField(max_length=120, blank=True)
    """The base model that answers, unless an adapter beside it brings its own; "": the first of BASE_MODELS."""
    technique = models.CharField(max_length=20, choices=Technique.choices, default=Technique.ZERO_SHOT)
    system = models.TextField(blank=True)
    template = models.TextField(default="{question}")
    """The user's turn; each `{field}` stands for what is asked."""
    fields = models.JSONField(default=one_field)
    """Names that the template may ask for."""
    dataset_version = models.ForeignKey(
        "webapp.DatasetVersion", null=True, blank=True, on_delete=models.SET_NULL, related_name="prompt_versions"
    )
    """What it is written for: its columns, labels, training rows as examples, validation rows to try it on."""
    pick = models.CharField(max_length=10, choices=Pick.choices, default=Pick.FIXED)
    """How the examples were, or for `nearest` are, chosen."""
    k = models.PositiveSmallIntegerField(default=0)
    """Examples drawn, for random and nearest."""
    order_seed = models.IntegerField(null=True, blank=True)
    """Fixes which rows were drawn at random, and their order."""
    examples = models.JSONField(default=list, blank=True)
    """Pairs in the order they are shown: [{"question": …, "answer": …, "steps": …, "row": …}]; empty for nearest."""
    rule = models.JSONField(default=dict, blank=True)
    """How the answer is found in the text: ml/specs/voting.py."""
    n_samples = models.PositiveSmallIntegerField(default=1)
    """Above 1: so many texts are written and their answers vote."""
    sample_temperature = models.FloatField(default=0.7)
    collection = models.ForeignKey(
        "webapp.Collection", null=True, blank=True, on_delete=models.SET_NULL, related_name="prompt_versions"
    )
    collection_name = models.CharField(max_length=80, blank=True)
    """Stays when the collection is deleted: such a version answers no more, rather than without its sources."""
    metrics = models.JSONField(default=dict, blank=True)
    """As AdapterVersion.metrics; written by evaluations, read by the gate of `production`."""

    class Meta:
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["prompt", "number"], name="prompt_version_number")]

    def __str__(self) -> str:
        return f"{self.prompt.name}@{self.number}"


class PromptAlias(TeamScoped):
    """`production`, `staging` …: a name that is moved from version to version."""

    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="aliases")
    name = models.SlugField(max_length=40)
    version = models.ForeignKey(PromptVersion, on_delete=models.PROTECT, related_name="aliases")
    moved_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "prompt aliases"
        constraints = [models.UniqueConstraint(fields=["prompt", "name"], name="alias_per_prompt")]

    def __str__(self) -> str:
        return f"{self.prompt.name}@{self.name}"
