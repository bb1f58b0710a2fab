"""JSON that satisfies a schema: which tokens may come next, for one row at a time. No torch.

llguidance does the work (1.9, MIT; an Earley parser over derivatives of regular expressions, some 0.1 ms a token) and
is imported with the first schema. Guarantees: an answer that ends by itself satisfies its schema; a schema that cannot
be kept (keywords that are not implemented, references to elsewhere, too large, satisfied by nothing) is refused by name
when the request comes, in bounded time: size, states and steps have limits. The JSON has no line breaks and one space
between items, so that a small model cannot lose itself in white space. Does not promise an end: an answer that is cut
off at its longest length is no complete JSON.
"""

from __future__ import annotations

import json
import threading
from typing import Any

from ml.errors import ModelError, SpecError

MAX_SCHEMA_BYTES = 64 * 1024
MAX_DEPTH = 96
"""Objects and lists within one another, of a schema."""
OPTIONS: Any = {
    "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": False,
    "coerce_one_of": True,
}  # fmt: skip
LIMITS: dict[str, Any] = {
    "max_items_in_row": 2000, "initial_lexer_fuel": 1_000_000, "step_lexer_fuel": 200_000, "step_max_items": 50_000,
    "max_lexer_states": 50_000, "max_grammar_size": 200_000,
}  # fmt: skip
"""Of the parser: what a schema beyond them would cost is not paid."""
FIELD = "response_format"


class Guide:
    """Where one answer stands in its schema. The model's thread alone uses it once the row is queued."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self) -> bytes:
        """A byte for each token id, 0 where the token may not come next. Raises SpecError at a dead end."""
        found: bytes = self._matcher.compute_logit_bias()
        if self._matcher.is_error() or not any(found):
            raise SpecError(
                "The schema became too costly to follow, or no text satisfies it.",
                hint="Make it smaller: fewer alternatives, shorter patterns.", field=FIELD,
            )  # fmt: skip
        return found

    def take(self, token_id: int) -> None:
        """Moves on by the token that was chosen. Raises ModelError when the schema does not permit it."""
        if not self._matcher.consume_token(token_id):
            raise ModelError(f"Token {token_id} does not fit the answer's schema.", hint="Ask again.", field=FIELD)

    @property
    def is_over(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._matcher.is_stopped())


class Grammars:
    """Makes guides for one tokenizer. Any thread."""

    def __init__(self, tokenizer: Any, stop_ids: set[int]) -> None:
        self._tokenizer, self._stop_ids = tokenizer, sorted(stop_ids)
        self._lock = threading.Lock()
        self._vocabulary: Any = None

    def guide(self, schema: str) -> Guide:
        """Raises SpecError, with what is wrong with the schema."""
        from llguidance import LLMatcher, LLParserLimits

        check_schema(schema)
        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides=OPTIONS)
        except ValueError as error:
            raise _refused(str(error)) from None
        matcher = LLMatcher(self._known_vocabulary(), grammar, log_level=0, limits=LLParserLimits(**LIMITS))
        if matcher.is_error():
            raise _refused(matcher.get_error())
        guide = Guide(matcher)
        guide.allowed()
        return guide

    def _known_vocabulary(self) -> Any:
        """Made once: it reads the whole vocabulary."""
        from llguidance.hf import from_tokenizer

        with self._lock:
            if self._vocabulary is None:
                try:
                    self._vocabulary = from_tokenizer(self._tokenizer, eos_token=self._stop_ids)
                except ValueError as error:
                    raise SpecError(
                        f"This base model's tokenizer cannot follow a schema: {error}.", field=FIELD
                    ) from None
            return self._vocabulary


def check_schema(schema: str) -> None:
    """Raises SpecError for what is no schema at all, or beyond the bounds."""
    n_bytes = len(schema.encode(errors="replace"))
    if n_bytes > MAX_SCHEMA_BYTES:
        raise SpecError(f"A schema may have {MAX_SCHEMA_BYTES:,} bytes, got {n_bytes:,}.", field=FIELD)
    try:
        found = json.loads(schema)
    except (ValueError, RecursionError):
        raise SpecError(f"The schema is no JSON, got {schema!r:.60}.", field=FIELD) from None
    if not isinstance(found, dict):
        raise SpecError(f"A schema is an object, got {schema!r:.60}.", field=FIELD)
    if "x-guidance" in found:
        raise SpecError("A schema may not bring settings of its own (x-guidance).", field=FIELD)
    level: list[Any] = [found]
    depth = 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise SpecError(f"A schema may be {MAX_DEPTH} levels deep.", hint="Use $defs and $ref.", field=FIELD)
        children = [child for node in level for child in (node.values() if isinstance(node, dict) else node)]
        level = [child for child in children if isinstance(child, dict | list)]


def _refused(reason: str) -> SpecError:
    """The library's own reason, one line of it."""
    text = " ".join(line.strip() for line in reason.splitlines() if line.strip())
    return SpecError(
        f"The schema cannot be kept: {text[:200].rstrip('.')}.", hint="Write it without that.", field=FIELD
    )
