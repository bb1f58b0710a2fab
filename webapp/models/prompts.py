"""Hard prompts as versioned objects of the library."""

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


class PromptVersion(TeamScoped):
    """Never changes once made."""

    class Technique(models.TextChoices):
        ZERO_SHOT = "zero_shot", "Zero-shot"
        FEW_SHOT = "few_shot", "Few-shot"
        CHAIN_OF_THOUGHT = "chain_of_thought", "Chain of thought"

    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    technique = models.CharField(max_length=20, choices=Technique.choices, default=Technique.ZERO_SHOT)
    system = models.TextField(blank=True)
    template = models.TextField(default="{question}")
    """The user's turn; `{question}` stands for what is typed."""
    examples = models.JSONField(default=list, blank=True)
    """Few-shot pairs: [{"question": …, "answer": …}]."""

    class Meta:
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["prompt", "number"], name="prompt_version_number")]

    def __str__(self) -> str:
        return f"{self.prompt.name}@{self.number}"
