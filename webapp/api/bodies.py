"""JSON bodies that are looked at only after what the address names was found: another team's id is a 404, whatever the
body. Values are bounded by services; unknown fields are refused as everywhere.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest
from pydantic import BaseModel, ValidationError

from ml.errors import SpecError
from webapp.api.errors import spec_error

Body = TypeVar("Body", bound=BaseModel)


def body_of(request: HttpRequest, kind: type[Body]) -> Body:
    """The request's body as `kind`. Raises SpecError that names the field."""
    try:
        given = json.loads(request.body)
    except (ValueError, RecursionError, RequestDataTooBig):
        raise SpecError(
            "The body is no valid JSON, or larger than 4 MB.", hint="Send one JSON object.", field="body"
        ) from None
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        raise spec_error({**problem, "loc": ("body", "body", *problem["loc"])}) from None


def described(kind: type[BaseModel]) -> dict[str, Any]:
    """What the OpenAPI description says of such a body."""
    schema = kind.model_json_schema()
    parts = schema.pop("$defs", {})

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [whole(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return whole(parts[value["$ref"].rpartition("/")[2]])
        return {key: whole(item) for key, item in value.items()}

    return {"requestBody": {"required": True, "content": {"application/json": {"schema": whole(schema)}}}}
