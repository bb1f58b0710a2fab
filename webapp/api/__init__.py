"""The OpenAI-compatible API under /v1/. Each route's policy stands in LEVELS; a route without one is refused.

Tokens are judged by webapp.policy alone, before anything here runs; ninja's own authentication is not used.
"""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI

from webapp.api import batches, chat, datasets, embeddings, evaluations, files, models, runs, search, studies, uploads
from webapp.api.errors import add_handlers
from webapp.errors import request_id_of
from webapp.policy import Level, policy

LEVELS: dict[str, Level] = {
    "models": "viewer", "model": "viewer", "api-root": "viewer",
    "chat_completions": "viewer", "completions": "viewer", "chat_completion": "viewer", "completion": "viewer",
    "chat_completion_cancel": "viewer", "completion_cancel": "viewer", "embeddings": "viewer",
    "files": "viewer", "file": "viewer", "file_content": "viewer",
    "batches": "viewer", "batch": "viewer", "batch_cancel": "member",
    "collection_search": "viewer",
    "run_create": "member", "run": "viewer", "run_cancel": "member",
    "evaluation_create": "member", "evaluation": "viewer",
    "dataset_uploads": "member", "dataset_upload": "member", "dataset_upload_hub": "member",
    "dataset_upload_mapping": "member", "dataset_version_create": "member",
    "datasets": "viewer", "dataset": "viewer", "dataset_version": "viewer", "dataset_rows": "viewer",
    "dataset_export": "viewer", "dataset_diff": "viewer",
    "studies": "viewer", "study": "viewer", "study_report": "viewer", "study_extend": "member",
    "study_stop": "member", "study_continue": "member", "study_promote": "member",
}  # fmt: skip
WRITES: dict[str, Level] = {"studies": "member", "files": "member", "file": "member", "batches": "member"}
"""Routes that are read by one role and written by another."""


class Api(NinjaAPI):
    """Every response names its request."""

    def create_temporal_response(self, request: HttpRequest) -> HttpResponse:
        response = super().create_temporal_response(request)
        response.headers["X-Request-ID"] = request_id_of(request)
        return response


api = Api(
    title="Coldframe", version="1", urls_namespace="v1", docs_url=None,
    description="OpenAI's shapes; `model` is a name of your team. Send a token as `Authorization: Bearer …`.",
    openapi_extra={
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
    },
)  # fmt: skip
add_handlers(api)
for part in (models, chat, embeddings, files, batches, search, uploads, datasets, runs, evaluations, studies):
    api.add_router("", part.router)

urlpatterns = api.urls[0]
for pattern in urlpatterns:
    if pattern.name == "openapi-json":
        policy("public", is_api=True)(pattern.callback)
    elif pattern.name in LEVELS:
        policy(LEVELS[pattern.name], takes_token=True, is_api=True, writes=WRITES.get(pattern.name))(pattern.callback)
