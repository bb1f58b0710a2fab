"""What a run works for, as a link: the noun that it makes or reads."""

from __future__ import annotations

from dataclasses import dataclass

from django.urls import reverse

from webapp.models import AdapterVersion, Batch, Collection, DatasetVersion, Evaluation, Run, Study, Upload


@dataclass(frozen=True, kw_only=True)
class Related:
    """What a run works for, as a link."""

    url: str
    label: str


def related(run: Run) -> Related | None:
    """The collection it reads into; the data set version it made, else the upload it reads; what it measures for."""
    if run.kind == Run.Kind.INGEST:
        found = Collection.objects.for_team(run.team).filter(pk=run.spec.get("collection_id")).first()
        return Related(url=reverse("collections:detail", args=[found.pk]), label=found.name) if found else None
    if run.kind == Run.Kind.VALIDATE:
        made = DatasetVersion.objects.for_team(run.team).filter(pk=run.result.get("dataset_version")).first()
        if made:
            return Related(url=reverse("datasets:detail", args=[made.dataset_id]), label=str(made))
        upload = Upload.objects.for_team(run.team).filter(pk=run.spec.get("upload")).first()
        return Related(url=reverse("datasets:upload", args=[upload.pk]), label=upload.filename) if upload else None
    if run.kind == Run.Kind.EVALUATE:
        evaluation = Evaluation.objects.for_team(run.team).filter(run=run).first()
        url = reverse("evaluations:detail", args=[evaluation.pk]) if evaluation else ""
        return Related(url=url, label=evaluation.name) if evaluation else None
    if run.kind == Run.Kind.STUDY:
        study = Study.objects.for_team(run.team).filter(pk=run.spec.get("study")).first()
        return Related(url=reverse("studies:detail", args=[study.pk]), label=study.name) if study else None
    if run.kind == Run.Kind.BATCH:
        batch = Batch.objects.for_team(run.team).filter(run=run).first()
        return Related(url=reverse("chat:api") + "#batch", label=batch.api_id) if batch else None
    if run.kind == Run.Kind.EXPORT:
        version = AdapterVersion.objects.for_team(run.team).filter(pk=run.spec.get("version")).first()
        if version:
            url = reverse("adapters:version", args=[version.adapter_id, version.number])
            return Related(url=url, label=str(version))
    return None
