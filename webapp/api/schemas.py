"""What the API takes, in OpenAI's shape. Unknown fields are refused, never dropped; values are bounded by services."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from ninja import Schema
from pydantic import ConfigDict, Field

from webapp.api.limits import MAX_MESSAGES, MAX_N

TAKEN = "Taken, not used."
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
"""Also whole; neither takes true, false or digits in quotes for a number."""
Flag = Annotated[bool, Field(strict=True)]


class Strict(Schema):
    model_config = ConfigDict(extra="forbid")


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = Field(None, description=TAKEN)

    def as_dict(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(Strict):
    include_usage: Flag = False
    include_obfuscation: Flag | None = Field(None, description=TAKEN)


class JsonSchema(Strict):
    name: str = Field(..., min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$", description=TAKEN)
    description: str | None = Field(None, description=TAKEN)
    schema_: dict[str, Any] = Field({}, alias="schema", description="The answer satisfies it, strict or not.")
    strict: Flag | None = Field(None, description=TAKEN)


class ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema_: JsonSchema | None = Field(None, alias="json_schema")


class Sampled(Strict):
    """What both ways to ask have in common."""

    model: str = Field(..., description="`base`, or an adapter or `prompt:` name of your team with @alias or @number.")
    max_tokens: Whole | None = Field(None, description="Longest answer in tokens; 256 unless told.")
    temperature: Number | None = Field(None, description="0 (greedy) to 2; 0.2 unless told.")
    top_p: Number | None = Field(None, description="0.01 to 1; 0.95 unless told.")
    top_k: Whole | None = Field(None, description="Draw from the k likeliest tokens only; 0 is off.")
    repetition_penalty: Number | None = Field(
        None, description="0.5 to 2, 1 is off; 1.1 unless told, 1 where another penalty or a schema is."
    )
    frequency_penalty: Number | None = Field(None, description="-2 to 2; counts the answer's own tokens.")
    presence_penalty: Number | None = Field(None, description="-2 to 2; counts the answer's own tokens.")
    stop: str | list[str] | None = None
    seed: Whole | None = Field(None, description="The same seed gives the same answer.")
    n: Whole | None = Field(None, description=f"1 to {MAX_N} answers out of one batch, each with a seed of its own.")
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    background: Flag | None = Field(
        None, description="The stream goes on when its reader leaves: join it again with its last event id."
    )
    deadline_s: Number | None = Field(None, description="Seconds after which the answer is given up; 600 unless told.")
    user: str | None = Field(None, description=TAKEN)


class ChatRequest(Sampled):
    messages: list[ChatMessage] = Field(..., min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: Whole | None = Field(None, description="The newer name of max_tokens.")
    collection: str | None = Field(None, description="Answer from this collection of your team, with citations.")
    choices: list[str] | None = Field(None, description="The answer is the likeliest of these texts; none is written.")
    response_format: ResponseFormat | None = Field(None, description="JSON of any shape, or of one JSON schema.")
    logprobs: Flag | None = Field(None, description="Tell each token's log-probability.")
    top_logprobs: Whole | None = Field(None, description="0 to 20 alternatives to each token; needs logprobs.")
    safety_identifier: str | None = Field(None, description=TAKEN)
    prompt_cache_key: str | None = Field(None, description=TAKEN)
    metadata: dict[str, str] | None = Field(None, description=TAKEN)
    store: Flag | None = Field(None, description=TAKEN)
    service_tier: str | None = Field(None, description=TAKEN)


class CompletionRequest(Sampled):
    prompt: str | list[str] = Field(..., description="A text, or several, to be continued as they stand.")
    echo: Flag | None = Field(None, description="Tell the prompt in front of each answer.")
    logprobs: Whole | None = Field(None, description="0 to 5 alternatives to each token.")
    best_of: Whole | None = Field(None, description="Equal to n only.")


class EmbeddingRequest(Strict):
    model: str
    input: Any = Field(..., description="A text or a list of texts.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Whole | None = None
    user: str | None = Field(None, description=TAKEN)


NO_TOOLS = "Tools are not supported: no model here may call anything."
REFUSED = {
    "tools": NO_TOOLS,
    "tool_choice": NO_TOOLS,
    "parallel_tool_calls": NO_TOOLS,
    "functions": NO_TOOLS.replace("Tools", "Functions"),
    "function_call": NO_TOOLS.replace("Tools", "Functions"),
    "chat_template": "A chat template in a request is refused: the model's own is used.",
    "chat_template_kwargs": "Chat template arguments in a request are refused: the model's own template is used.",
    "logit_bias": "logit_bias is not supported.",
    "suffix": "suffix is not supported: a text is continued, not filled in.",
    "audio": "Only text is supported.",
    "modalities": "Only text is supported.",
}
