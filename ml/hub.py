"""A folder on a model hub. With ml/data/hub.py the only place in `ml` that talks to a network, and only when asked.

Guarantees: the token is read from HF_TOKEN, sent to the hub alone and written nowhere; a repository that is made is
private unless said otherwise; the hub's errors become ours. HF_ENDPOINT names another hub than huggingface.co.
"""

from __future__ import annotations

import os
from pathlib import Path

from ml.errors import ColdframeError, SpecError, UnavailableError

ENDPOINT = "https://huggingface.co"


class HubError(SpecError):
    """The hub refused what was asked of it: the token, the repository's name, or its content."""

    code = "hub_refused"


def go_online() -> str:
    """Ends this process's offline mode and returns the token. Call before anything imports huggingface_hub.

    Raises SpecError when no token is set.
    """
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise SpecError(
            "There is no token for the hub.",
            hint="Set HF_TOKEN to one that may write (huggingface.co, Settings, Access Tokens) and try again.",
            field="token",
        )
    os.environ["HF_HUB_OFFLINE"] = "0"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    return token


def upload(folder: Path, *, repo: str, token: str, is_public: bool = False, message: str = "Upload") -> str:
    """Puts every file of `folder` into the repository `repo` (`name` or `owner/name`), made when it is missing.

    Returns its URL. Raises SpecError for an impossible name, HubError when the hub refuses, UnavailableError when it
    cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.errors import HTTPError as HTTPError  # type: ignore[attr-defined]  # httpx's, whichever it uses

    endpoint = os.environ.get("HF_ENDPOINT", "").strip() or ENDPOINT
    api = HfApi(endpoint=endpoint, token=token)
    try:
        made = api.create_repo(repo, private=not is_public, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=message)
    except HFValidationError as error:
        raise SpecError(
            f"{repo[:100]!r} is no repository name.", hint="Give name or owner/name.", field="repo"
        ) from error
    except HfHubHTTPError as error:
        raise _refusal(error.response.status_code, repo, endpoint) from error
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        raise UnavailableError(
            f"The hub {endpoint} does not answer ({type(error).__name__}).",
            hint="Check the network of this machine and HF_ENDPOINT, then try again.",
        ) from error
    return f"{endpoint.rstrip('/')}/{made.repo_id}"


def _refusal(status: int, repo: str, endpoint: str) -> ColdframeError:
    """What a hub's status means; its own text is left out, since it may repeat what was sent."""
    if status >= 500 or status == 429:
        return UnavailableError(f"The hub {endpoint} answered {status}.", hint="Try again in some minutes.")
    words = {
        401: ("does not know this token", "Check HF_TOKEN: it may have been revoked."),
        403: (f"does not let this token write to {repo}", "Use one with write access, or a repository of its owner."),
        404: (f"has no place for {repo}", "Check the owner's name."),
        409: (f"says that {repo} was changed meanwhile", "Try again."),
    }  # fmt: skip
    what, hint = words.get(status, (f"refused the upload to {repo} ({status})", "The hub's own pages may say why."))
    return HubError(f"The hub {endpoint} {what}.", hint=hint, field="repo")
