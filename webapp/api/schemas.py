"""What the API takes, in OpenAI's shape. Unknown fields are refused, never dropped; values are bounded by services."""

from __future__ import annotations

from typing import Any, Literal

from ninja import Schema
from pydantic import ConfigDict, Field

from webapp.api.limits import MAX_MESSAGES


class Strict(Schema):
    model_config = ConfigDict(extra="forbid")


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = Field(None, description="Taken, not used.")

    def as_dict(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool | None = Field(None, description="Taken, not used.")


class ResponseFormat(Strict):
    type: Literal["text"]


class ChatRequest(Strict):
    model: str = Field(..., description="`base`, or an adapter or `prompt:` name of your team with @alias or @number.")
    messages: list[ChatMessage] = Field(..., min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int | None = Field(None, description="Longest answer in tokens; 256 unless told.")
    max_completion_tokens: int | None = Field(None, description="The newer name of max_tokens.")
    temperature: float | None = Field(None, description="0 (greedy) to 2; 0.2 unless told.")
    top_p: float | None = None
    repetition_penalty: float | None = Field(None, description="1 is off; 1.1 unless told.")
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, description="1 only.")
    collection: str | None = Field(None, description="Answer from this collection of your team, with citations.")
    response_format: ResponseFormat | None = None
    frequency_penalty: float | None = Field(None, description="0 only; see repetition_penalty.")
    presence_penalty: float | None = Field(None, description="0 only; see repetition_penalty.")
    logprobs: bool | None = Field(None, description="false only.")
    user: str | None = Field(None, description="Taken, not used.")
    safety_identifier: str | None = Field(None, description="Taken, not used.")
    metadata: dict[str, str] | None = Field(None, description="Taken, not used.")
    store: bool | None = Field(None, description="Taken, not used.")
    service_tier: str | None = Field(None, description="Taken, not used.")


class EmbeddingRequest(Strict):
    model: str
    input: Any = Field(..., description="A text or a list of texts.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = Field(None, description="Taken, not used.")


REFUSED = {
    "tools": "Tools are not supported: no model here may call anything.",
    "tool_choice": "Tools are not supported: no model here may call anything.",
    "parallel_tool_calls": "Tools are not supported: no model here may call anything.",
    "functions": "Functions are not supported: no model here may call anything.",
    "function_call": "Functions are not supported: no model here may call anything.",
    "chat_template": "A chat template in a request is refused: the model's own is used.",
    "chat_template_kwargs": "Chat template arguments in a request are refused: the model's own template is used.",
    "logit_bias": "logit_bias is not supported.",
    "top_logprobs": "Log-probabilities are not supported.",
    "audio": "Only text is supported.",
    "modalities": "Only text is supported.",
}
