"""Looks at an upload for the mapping page: what the file holds, and its first rows as the base model sees them.

Guarantees: the file is read by a child process with limits; this process only renders the few rows that the child kept,
through `ml.data.chat`, the code that training uses. A failure ends on the upload, never in a lost message.
"""

from __future__ import annotations

import json
import logging
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings

from ml.errors import ColdframeError
from webapp import storage
from webapp.models import Upload
from webapp.reading import ChildError, read_in_child
from webapp.services.uploads import upload_inspected, upload_previewed, upload_refused

logger = logging.getLogger(__name__)
TIMEOUT_S = 240


def inspect(upload_id: int) -> str:
    """Reads the file once, then renders the rows under the upload's mapping as it is now."""
    upload = Upload.objects.filter(pk=upload_id).first()
    if upload is None:
        return "gone"
    if upload.state == Upload.State.READING:
        if not _read(upload):
            return "refused"
        upload.refresh_from_db()
    if upload.mapping and upload.report.get("head"):
        _preview(upload)
    return "looked at"


def _read(upload: Upload) -> bool:
    try:
        path = storage.path_of(upload.storage_key)
        with tempfile.TemporaryDirectory(dir=settings.RUNS_DIR) as folder:
            spec = {"kind": "inspect", "source_path": str(path), "filename": upload.filename}
            made = read_in_child(spec=spec, workdir=Path(folder), timeout_s=TIMEOUT_S)
            upload_inspected(upload=upload, report=json.loads(made.read_text(encoding="utf-8")))
    except ChildError as error:
        upload_refused(upload=upload, error=error.as_dict())
        return False
    except ColdframeError as error:
        upload_refused(upload=upload, error=error.as_dict())
        return False
    return True


@lru_cache(maxsize=2)
def _tokenizer(models_dir: Path, base: str) -> Any:
    from ml.data.lengths import load_tokenizer

    return load_tokenizer(models_dir, base)


def _preview(upload: Upload) -> None:
    from ml.data.preview import preview_rows

    mapping, base = dict(upload.mapping), settings.BASE_MODEL
    columns = [column["name"] for column in upload.report["columns"]]
    try:
        tokenizer = _tokenizer(Path(settings.MODELS_DIR), base)
        preview = preview_rows(upload.report["head"], mapping, columns, tokenizer)
    except ColdframeError as error:
        preview = {"error": error.as_dict()}
    upload_previewed(upload=upload, mapping=mapping, preview={**preview, "base": base})
