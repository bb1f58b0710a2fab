"""The one resolver of names that answer questions: the plain model, adapters, hard prompts.

    base                     the plain frozen model, the first of BASE_MODELS
    qwen3-0.6b               the plain frozen model of this name, one of BASE_MODELS
    triage                   an adapter: its `production`, else its newest version
    triage@production        the version an alias points at now
    triage@3                 exactly this version
    prompt:reply@production  a hard prompt, in the same three ways; `reply@production` means the same as long as the
                             team has no adapter called `reply`

Guarantees: only names of the given team are looked at, so that another team's name and one that never was give the same
error; an unknown name is never answered by the plain model instead. Reads only.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.conf import settings

from ml.errors import NotFoundError, SpecError
from ml.specs import why_not_served
from webapp.models import Adapter, AdapterVersion, BaseModel, Prompt, PromptVersion, Team
from webapp.selectors.framing import Frame, frame_of_adapter, frame_of_prompt

BASE = "base"
PROMPT = "prompt:"
PRODUCTION = "production"
MAX_NAMES = 500
"""Names a listing holds at most."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something that answers: which artifact on which base, and what is folded into its messages."""

    name: str
    """Resolved: `base`, `triage@3`, `prompt:reply@2`."""
    asked: str
    """As it was asked for: `triage`, `triage@production` …"""
    label: str
    """What people read on chips and columns."""
    method: str = ""
    """A training method, a prompting technique, or "" for the plain model."""
    form: str = "plain"
    artifact: str | None = None
    base: str
    frame: Frame = field(default_factory=Frame)
    version: AdapterVersion | PromptVersion | None = None
    unserved: str = ""
    """Why the engine cannot answer with it; "" when it can."""

    @property
    def is_base(self) -> bool:
        return self.artifact is None and not self.method

    def fold(self, messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        """`messages` (ending in the user's) as this target is to see them."""
        return self.frame.fold(messages)


def base_names() -> list[str]:
    """Names of the plain models: `base` for the first that is served, the others by their own."""
    return [BASE, *settings.BASE_MODELS[1:]]


def base_called(name: str) -> str:
    """The base model behind one of `base_names`."""
    return settings.BASE_MODEL if name == BASE else name


def target_base(base: str = "", asked: str = "") -> Target:
    """The plain model `base`; "" is the first that is served."""
    base = base or settings.BASE_MODEL
    is_first = base == settings.BASE_MODEL
    name = BASE if is_first else base
    return Target(
        name=name, asked=asked or name, label="plain model" if is_first else f"plain {base}", base=base,
        unserved=why_base_unserved(base),
    )  # fmt: skip


def why_base_unserved(base: str) -> str:
    """Why no engine answers on this base model; "" when one does, or will when it is back."""
    if base in settings.BASE_MODELS:
        return ""
    return f"its base model {base} is served by no engine. An operator can add it to BASE_MODELS."


def why_unserved(version: AdapterVersion) -> str:
    """Why no engine answers with this version; "" when one does."""
    family = str(version.manifest.get("family") or "decoder")
    return why_not_served(version.form, family) or why_base_unserved(version.base_name)


def unserved_error(name: str, reason: str) -> SpecError:
    """What chat and API say instead of asking an engine that would refuse."""
    return SpecError(
        f"{name} is not served in chat: {reason}" if name.startswith(PROMPT) else
        f"{name} is not served in chat yet: {reason}", code="not_served", field="model",
        hint="Its page has what it measured, and the files to use it elsewhere.",
    )  # fmt: skip


def base_of(version: AdapterVersion | PromptVersion) -> str:
    """The base model that answers with this version."""
    return version.base_name or settings.BASE_MODEL


def target_of_adapter(version: AdapterVersion, asked: str = "") -> Target:
    name = str(version)
    return Target(
        name=name, asked=asked or name, label=asked or name, method=version.method, form=version.form,
        artifact=version.artifact, base=version.base_name, frame=frame_of_adapter(version), version=version,
        unserved=why_unserved(version),
    )  # fmt: skip


def why_prompt_unserved(version: PromptVersion) -> str:
    """Why nothing is answered by this version; "" when it is."""
    if version.collection_name and version.collection_id is None:
        return f"its collection {version.collection_name} was deleted."
    if version.pick == PromptVersion.Pick.NEAREST and version.dataset_version_id is None:
        return "the data set that its examples come from was deleted."
    return why_base_unserved(base_of(version))


def target_of_prompt(version: PromptVersion, asked: str = "") -> Target:
    name = f"{PROMPT}{version}"
    return Target(
        name=name, asked=asked or name, label=(asked or name).removeprefix(PROMPT), method=version.technique,
        base=base_of(version), frame=frame_of_prompt(version), version=version,
        unserved=why_prompt_unserved(version),
    )  # fmt: skip


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 9


def _adapter_version(team: Team, name: str, which: str) -> AdapterVersion | None:
    versions = AdapterVersion.objects.for_team(team).select_related("adapter", "dataset_version")
    versions = versions.filter(adapter__name=name, adapter__is_retired=False)
    if _is_number(which):
        return versions.filter(number=int(which)).first()
    found = versions.filter(aliases__name=which or PRODUCTION).first()
    return found if found or which else versions.order_by("-number").first()


def _prompt_version(team: Team, name: str, which: str) -> PromptVersion | None:
    versions = PromptVersion.objects.for_team(team).filter(prompt__name=name)
    versions = versions.select_related("prompt", "dataset_version__dataset", "collection")
    if _is_number(which):
        return versions.filter(number=int(which)).first()
    found = versions.filter(aliases__name=which or PRODUCTION).first()
    return found if found or which else versions.order_by("-number").first()


def _has_adapter(team: Team, name: str) -> bool:
    return Adapter.objects.for_team(team).filter(name=name).exists()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A name that resolves, and since when what it names has been there."""

    name: str
    made: datetime | None = None
    version: AdapterVersion | PromptVersion | None = None
    """What it stands for now; None: the plain model."""
    resolved: str = ""
    """The name that will always stand for it."""


def _entry(name: str, version: AdapterVersion | PromptVersion, start: str) -> Entry:
    return Entry(name=name, made=version.created_at, version=version, resolved=f"{start}@{version.number}")


def _entries_of(adapter: Adapter) -> list[Entry]:
    versions = [version for version in adapter.versions.all() if not why_unserved(version)]
    aliases = list(adapter.aliases.all())
    production = next((alias.version for alias in aliases if alias.name == PRODUCTION), None)
    bare = production or next(iter(adapter.versions.all()), None)
    named = [(adapter.name, bare)] if bare and not why_unserved(bare) else []
    named += [(str(alias), alias.version) for alias in aliases if not why_unserved(alias.version)]
    named += [(str(version), version) for version in versions]
    return [_entry(name, version, adapter.name) for name, version in named]


def _entries_of_prompt(prompt: Prompt) -> list[Entry]:
    named: list[tuple[str, PromptVersion]] = [(str(alias), alias.version) for alias in prompt.aliases.all()]
    versions = sorted(prompt.versions.all(), key=lambda v: -v.number)
    production = next((alias.version for alias in prompt.aliases.all() if alias.name == PRODUCTION), None)
    bare = production or next(iter(versions), None)
    named = [*([(prompt.name, bare)] if bare else []), *named, *((str(version), version) for version in versions)]
    start = PROMPT + prompt.name
    return [_entry(PROMPT + name, v, start) for name, v in named if not why_prompt_unserved(v)]


def entries_of_team(team: Team) -> list[Entry]:
    """Every name that can be asked, for `/v1/models` and for suggestions: bare names, aliases, numbers."""
    found = [Entry(name=name, resolved=name) for name in base_names()]
    adapters = Adapter.objects.for_team(team).filter(is_retired=False).prefetch_related("versions", "aliases__version")
    for adapter in adapters[:MAX_NAMES]:
        found += _entries_of(adapter)
    for prompt in Prompt.objects.for_team(team).prefetch_related("versions", "aliases__version")[:MAX_NAMES]:
        found += _entries_of_prompt(prompt)
    return found[:MAX_NAMES]


def names_of_team(team: Team) -> list[str]:
    return [entry.name for entry in entries_of_team(team)]


def _unknown(team: Team, asked: str) -> NotFoundError:
    if BaseModel.objects.filter(name=asked).exists():
        return NotFoundError(
            f"{asked} is a base model that no engine serves.", field="model", code="model_not_found",
            hint=f"Served are {', '.join(settings.BASE_MODELS)}. An operator can add it to BASE_MODELS.",
        )  # fmt: skip
    names = names_of_team(team)
    close = difflib.get_close_matches(asked, names, n=3, cutoff=0.5)
    if not close and (bare := asked.partition("@")[0]) != asked:
        close = [name for name in names if name.partition("@")[0] == bare][:3]
    if close:
        hint = f"Did you mean {' or '.join(close)}?"
    else:
        hint = "Your team has: " + ", ".join(names[:5]) + ("…" if len(names) > 5 else ".")
    return NotFoundError(f"Your team has no model {asked[:120]!r}.", hint=hint, field="model", code="model_not_found")


def resolve(*, team: Team, name: str) -> Target:
    """The target behind a name of this team. Raises NotFoundError with the nearest names."""
    asked = name.strip() if isinstance(name, str) else ""
    if asked in (BASE, *settings.BASE_MODELS):
        return target_base(base_called(asked), asked)
    bare, at, which = asked.removeprefix(PROMPT).partition("@")
    is_well_formed = bool(bare) and bool(which) == bool(at) and "\x00" not in asked and len(asked) <= 200
    if is_well_formed and asked.startswith(PROMPT):
        prompt = _prompt_version(team, bare, which)
        if prompt is not None:
            return target_of_prompt(prompt, asked)
    elif is_well_formed:
        version = _adapter_version(team, bare, which)
        if version is not None:
            return target_of_adapter(version, asked)
        prompt = None if _has_adapter(team, bare) else _prompt_version(team, bare, which)
        if prompt is not None:
            return target_of_prompt(prompt, asked)
    raise _unknown(team, asked)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A name the picker offers."""

    name: str
    method: str
    note: str
    unserved: str = ""
    """Why it cannot be picked."""

    @property
    def is_base(self) -> bool:
        return self.name in base_names()


def choices(team: Team) -> list[Choice]:
    """What the picker offers: the plain models, every adapter by its best name and versions, every prompt."""
    found = [Choice(name=name, method="", note=f"{base_called(name)}, frozen") for name in base_names()]
    adapters = Adapter.objects.for_team(team).filter(is_retired=False).prefetch_related("versions", "aliases__version")
    for adapter in adapters[:MAX_NAMES]:
        named = [(str(alias), alias.version, f"now version {alias.version.number}") for alias in adapter.aliases.all()]
        named += [(str(version), version, f"version {version.number}") for version in adapter.versions.all()]
        found += [
            Choice(name=name, method=version.method, note=note, unserved=why_unserved(version))
            for name, version, note in named
        ]
    for prompt in Prompt.objects.for_team(team).prefetch_related("versions", "aliases__version")[:MAX_NAMES]:
        found += _choices_of_prompt(prompt)
    return found


def _choices_of_prompt(prompt: Prompt) -> list[Choice]:
    """Its aliases, and its newest version by number where an alias is set, by bare name where none is."""
    aliases = list(prompt.aliases.all())
    named = [(str(alias), alias.version, f"hard prompt, now version {alias.version.number}") for alias in aliases]
    newest = max(prompt.versions.all(), key=lambda v: v.number, default=None)
    if newest is not None:
        name = str(newest) if aliases else prompt.name
        named.append((name, newest, f"hard prompt, newest version {newest.number}" if aliases else "hard prompt"))
    return [
        Choice(name=PROMPT + name, method=version.technique, note=note, unserved=why_prompt_unserved(version))
        for name, version, note in named
    ]
