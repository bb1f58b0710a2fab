"""All models, by noun; import them from here."""

from webapp.models.adapters import Adapter, AdapterVersion, Alias, BaseModel
from webapp.models.batches import ApiFile, Batch
from webapp.models.chat import Citation, Conversation, Feedback, Message
from webapp.models.collections import Chunk, Collection, Document, DocumentVersion
from webapp.models.datasets import Dataset, DatasetVersion, Upload
from webapp.models.drafts import DraftRow, DraftUse
from webapp.models.evaluations import Evaluation, EvaluationComparison, EvaluationRow
from webapp.models.prompts import Prompt, PromptAlias, PromptVersion
from webapp.models.runs import Outbox, Run, RunEvent, RunMetric
from webapp.models.studies import Study, StudyEntry
from webapp.models.teams import ROLE_RANK, ApiToken, AuditEvent, Installation, Membership, Role, Team

__all__ = [
    "ROLE_RANK", "Adapter", "AdapterVersion", "Alias", "ApiFile", "ApiToken", "AuditEvent", "BaseModel", "Batch",
    "Chunk", "Citation", "Collection", "Conversation", "Dataset", "DatasetVersion", "Document", "DocumentVersion",
    "DraftRow", "DraftUse", "Evaluation", "EvaluationComparison", "EvaluationRow", "Feedback", "Installation",
    "Membership", "Message", "Outbox", "Prompt", "PromptAlias", "PromptVersion", "Role", "Run", "RunEvent", "RunMetric",
    "Study", "StudyEntry", "Team", "Upload",
]  # fmt: skip
