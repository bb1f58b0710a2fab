"""The errors a user may see: what failed, the value received, what to do.

Light: imports nothing but the standard library, so that web processes may use it. Every error carries a stable `code`,
an HTTP `status`, a `hint` and whether it is `permanent` (trying again unchanged cannot help).
"""

from __future__ import annotations

from typing import Any


class ColdframeError(Exception):
    """Base of all errors that people see. `str(error)` is the message; `as_dict()` travels in events and JSON."""

    code = "error"
    status = 400
    permanent = True

    def __init__(self, message: str, *, hint: str = "", field: str = "", code: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.field = field
        self.code = code or type(self).code
        self.status = status or type(self).status

    def as_dict(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "field": self.field,
            "permanent": self.permanent,
            "status": self.status,
        }


class SpecError(ColdframeError):
    """A training or request specification breaks a rule; `field` names the culprit."""

    code = "invalid_spec"


class DataError(ColdframeError):
    """A data set or document cannot be used as it is."""

    code = "invalid_data"


class ModelError(ColdframeError):
    """A base model is missing, of an unsupported kind, or outside the models folder."""

    code = "invalid_model"


class ArtifactError(ColdframeError):
    """A saved adapter is damaged, foreign, or made for another base model."""

    code = "invalid_artifact"


class ContextTooLongError(ColdframeError):
    """Prompt, prefix and answer together do not fit the context."""

    code = "context_too_long"


class NotFoundError(ColdframeError):
    """Nothing of that name in this team."""

    code = "not_found"
    status = 404


class BusyError(ColdframeError):
    """The queue is full; try again after `retry_after_s` seconds."""

    code = "busy"
    status = 429
    permanent = False
    retry_after_s = 5


class UnavailableError(ColdframeError):
    """A part (redis, engine, vector store) does not answer right now."""

    code = "unavailable"
    status = 503
    permanent = False


class StaysLocalError(UnavailableError):
    """An engine that has the model elsewhere cannot answer this; one that holds the model itself can."""

    code = "stays_local"


class OutOfMemoryError(ColdframeError):
    """Training or serving needs more memory than there is; the hint says what would fit."""

    code = "out_of_memory"


class StorageError(ColdframeError):
    """Something could not be written to the disk; what was there before is untouched."""

    code = "storage"


class DivergedError(ColdframeError):
    """The loss became NaN or infinite, or never fell."""

    code = "diverged"
