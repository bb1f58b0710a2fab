"""One object of every kind for one team, all with the same id, so that any route can be asked for it."""

from __future__ import annotations

import uuid
from typing import Any

from webapp.models import (
    Adapter,
    AdapterVersion,
    Alias,
    ApiFile,
    ApiToken,
    Batch,
    Chunk,
    Collection,
    Conversation,
    Dataset,
    DatasetVersion,
    Document,
    DocumentVersion,
    DraftRow,
    Evaluation,
    EvaluationComparison,
    Membership,
    Message,
    Prompt,
    PromptAlias,
    PromptVersion,
    Role,
    Run,
    Study,
    Team,
    Upload,
)

ID = 4711
UUID = uuid.UUID("00000000-0000-4000-8000-000000004711")


def one_of_everything(team: Team, user: Any) -> None:
    """Rows of `team`, made by `user`, each with primary key ID (and UUID where it has one)."""
    mine = {"team": team, "created_by": user, "pk": ID}
    membership = Membership.objects.get(team=team, user=user)
    Membership.objects.filter(pk=membership.pk).update(id=ID)
    ApiToken.objects.create(**mine, name="t", digest="d" * 64, prefix="cf-12345", role=Role.MEMBER)
    upload = Upload.objects.create(**mine, key=UUID, filename="rows.csv", size_bytes=3, sha256="a" * 64)
    dataset = Dataset.objects.create(**mine, name="rows")
    version = DatasetVersion.objects.create(
        **mine, dataset=dataset, number=1, sha256="b" * 64, task="classification", splits={"train": 1}
    )
    run = Run.objects.create(
        **mine, kind=Run.Kind.TRAIN, title="theirs", dataset_version=version, spec={"method": "lora"}
    )
    adapter = Adapter.objects.create(**mine, name="theirs")
    adapter_version = AdapterVersion.objects.create(
        **mine, adapter=adapter, number=1, artifact="c" * 64, method="lora", form="lora_delta", base_name="base",
        base_fingerprint="e" * 64, run=run, dataset_version=version,
    )  # fmt: skip
    Alias.objects.create(**mine, adapter=adapter, name="production", version=adapter_version)
    prompt = Prompt.objects.create(**mine, name="theirs")
    prompt_version = PromptVersion.objects.create(**mine, prompt=prompt, number=1)
    PromptAlias.objects.create(**mine, prompt=prompt, name="production", version=prompt_version)
    collection = Collection.objects.create(**mine, name="theirs")
    measured = {"dataset_version": version, "split": "test", "n_rows": 1, "spec": {"metrics": ["accuracy"]}}
    evaluation = Evaluation.objects.create(
        **mine, subject="theirs@1", adapter_version=adapter_version, base_name="base", results="9" * 64, **measured
    )
    other = Evaluation.objects.create(
        team=team, created_by=user, subject="base", base_name="base", results="8" * 64, **measured
    )
    EvaluationComparison.objects.create(team=team, created_by=user, a=evaluation, b=other, n_rows=1)
    Study.objects.create(**mine, name="theirs", dataset_version=version, base_name="base", metric="accuracy", spec={})
    document = Document.objects.create(**mine, collection=collection, title="theirs.md")
    document_version = DocumentVersion.objects.create(
        **mine, document=document, number=1, sha256="f" * 64, filename="theirs.md", size_bytes=4, text="text",
        state=DocumentVersion.State.LIVE,
    )  # fmt: skip
    Chunk.objects.create(**mine, version=document_version, number=1, text="text", start=0, end=4)
    conversation = Conversation.objects.create(**mine, title="theirs")
    Message.objects.create(
        **mine, conversation=conversation, turn=1, role=Message.Role.ASSISTANT, request_id=UUID, target="base",
        state=Message.State.DONE, content="secret",
    )  # fmt: skip
    DraftRow.objects.create(
        **mine, kind="good", origin={"conversation": ID, "message": ID, "target": "base"}, answer="secret",
        messages=[{"role": "user", "content": "secret"}], question_digest="q" * 16, digest="d" * 16,
    )  # fmt: skip
    file = ApiFile.objects.create(**mine, key=UUID, filename="theirs.jsonl", purpose="batch", size_bytes=3)
    Batch.objects.create(**mine, key=UUID, endpoint="/v1/embeddings", input_file=file, input_name=file.api_id)
    assert upload.pk == ID
