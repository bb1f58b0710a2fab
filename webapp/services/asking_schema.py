"""The shape that an answer must have, from a request to the text that the engine follows.

Guarantees: bounded size and depth, found without recursion. What of JSON Schema can be kept is for the engine to say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ml.errors import SpecError

MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH = 64 * 1024, 96
FIELD = "response_format"
ANY_OBJECT = '{"type": "object"}'


def schema_text(schema: Mapping[str, Any]) -> str:
    """The schema as JSON. Raises SpecError when it is too deep or too large."""
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        children = [child for node in level for child in (node.values() if isinstance(node, Mapping) else node)]
        level = [child for child in children if isinstance(child, Mapping | list)]
        if not level:
            break
    else:
        raise SpecError(
            f"The schema is more than {MAX_SCHEMA_DEPTH} levels deep.", hint="Use $defs and $ref.", field=FIELD
        )
    text = json.dumps(schema)
    if len(text) > MAX_SCHEMA_BYTES:
        raise SpecError(f"A schema may have {MAX_SCHEMA_BYTES:,} bytes, got {len(text):,}.", field=FIELD)
    return text
