"""A spec that somebody brings, as YAML or JSON, into the form of a new run; and what differs between two specs.

Guarantees: nothing is dropped in silence. Every key that is not known is named, and every value that cannot be goes
into the form as it came, where its own check refuses it. Texts are bounded, aliases (which can grow without bound) and
objects of any tag are refused, and a key given twice is an error. Reads only.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from ml.errors import SpecError
from ml.specs import COMMON_FIELDS, METHODS, Field, Method, common_fields_for
from webapp.forms.run_fields import SHARED, key_of, own_fields, shown
from webapp.models import DatasetVersion, Run, Team

MAX_BYTES = 64 * 1024
ABOUT = ("kind", "dataset_sha256")
"""Keys of a saved run that the form does not ask for."""
MAIN = {"adapter": "Adapter name", "dataset": "Data set", "base": "Base model", "method": "Technique"}


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise SpecError("A spec may not have YAML aliases (*name).", hint="Write the value out.", field="spec")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        _refuse_twice(names)
        return super().construct_mapping(node, deep=deep)


def _refuse_twice(names: list[Any]) -> None:
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise SpecError(f"The spec says {', '.join(twice)} twice.", hint="Keep one of them.", field=twice[0][:80])


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_twice([name for name, _ in pairs])
    return dict(pairs)


def spec_of_text(raw: bytes | str) -> dict[str, Any]:
    """The mapping in a YAML or JSON text. Raises SpecError."""
    data = raw.encode("utf-8", errors="replace") if isinstance(raw, str) else raw
    if len(data) > MAX_BYTES:
        raise SpecError(f"A spec has at most {MAX_BYTES // 1024} kB, got {len(data) // 1024} kB.", field="spec")
    try:
        text = data.decode("utf-8-sig").strip()
        value = _parsed(text)
    except UnicodeDecodeError:
        raise SpecError("The spec is no UTF-8 text.", hint="Save it as UTF-8.", field="spec") from None
    except RecursionError:
        raise SpecError("The spec is nested too deeply.", field="spec") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SpecError(f"The spec is neither YAML nor JSON: {reason}.", field="spec") from None
    if not isinstance(value, dict) or not value:
        got = "nothing" if not text else f"a {type(value).__name__}"
        raise SpecError(f"A spec is a list of keys and values, got {got}.", hint="For example steps: 100", field="spec")
    return value


def _parsed(text: str) -> Any:
    if text.startswith("{"):
        try:
            return json.loads(text, object_pairs_hook=_pairs)
        except ValueError:
            pass  # YAML has braces too, and says better what is wrong
    return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What of a spec goes into the form, and what is wrong with the rest."""

    data: dict[str, Any]
    """Initial values of the form, by input."""
    problems: list[str]


def _unknown(name: Any, known: list[str], where: str) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"Unknown {where} {str(name)[:80]!r}." + (f" Did you mean {close[0]}?" if close else "")


def _input(field: Field, value: Any, problems: list[str]) -> Any:
    """The value as its input shows it; what no input can show is named."""
    if isinstance(value, (dict, list)) or value is None:
        problems.append(f"{field.label} must be a single value, got {json.dumps(value, default=str)[:80]}.")
        return shown(field.default)
    if field.kind == "bool":
        try:
            return field.check(value)
        except SpecError as error:
            problems.append(error.message)
            return field.default
    return value if isinstance(value, str) else shown(value)


def _main(given: Mapping[str, Any], team: Team, problems: list[str]) -> tuple[dict[str, Any], Method]:
    """Adapter, base, technique and data set version."""
    data: dict[str, Any] = {name: str(given[name])[:200] for name in ("adapter", "base") if name in given}
    method = METHODS.get(str(given.get("method")))
    if method is None:
        known = "Techniques: " + ", ".join(METHODS) + "."
        said = f"no technique {given['method']!r:.80}" if "method" in given else "no method in the spec"
        problems.append(f"There is {said}. {known}")
        method = next(iter(METHODS.values()))
    data["method"] = method.name
    dataset, _, number = str(given.get("dataset", "")).rpartition("@")
    versions = DatasetVersion.objects.for_team(team).filter(dataset__name=dataset, dataset__is_archived=False)
    version = versions.filter(number=int(number)).first() if number.isdecimal() and len(number) < 9 else None
    if version is not None:
        data["dataset_version"] = str(version.pk)
    if "dataset" in given and version is None:
        problems.append(f"Your team has no data set version {str(given['dataset'])[:80]!r}. Choose one below.")
    elif version and given.get("dataset_sha256", version.sha256) != version.sha256:
        problems.append(f"{given['dataset']} has other rows here than the spec was saved with (dataset_sha256).")
    return data, method


def loaded(given: Mapping[Any, Any], *, team: Team) -> Loaded:
    """A spec in the form's terms."""
    problems: list[str] = []
    data, method = _main(given, team, problems)
    shared = {field.name: (None, field) for field in SHARED}
    common = {field.name for field in COMMON_FIELDS}
    own = {field.name: (method, field) for field in own_fields(method)}
    top = {**shared, **{name: pair for name, pair in own.items() if name in common}}
    options = {name: pair for name, pair in own.items() if name not in common}
    nested = given.get("options")
    if nested is not None and not isinstance(nested, Mapping):
        problems.append(f"options must be keys and values, got {str(nested)[:80]!r}.")
        nested = None
    places = (
        (given, top, {*MAIN, *ABOUT, "options"}, "key"),
        (nested or {}, options, set[str](), f"option of {method.label}"),
    )
    for values, pairs, beside, where in places:
        for name, value in values.items():
            if name in pairs:
                of, field = pairs[name]
                data[key_of(of, field)] = _input(field, value, problems)
            elif name not in beside:
                problems.append(_unknown(name, [*pairs, *sorted(beside)], where))
    return Loaded(data=data, problems=problems)


@dataclass(frozen=True, kw_only=True)
class Change:
    """One setting that is not as in the original."""

    label: str
    before: Any
    after: Any


def _said(name: str, value: Any) -> Any:
    """A value as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return METHODS[value].label if name == "method" and value in METHODS else shown(value)


def changes(run: Run, spec: Mapping[str, Any]) -> list[Change]:
    """What `spec` has otherwise than the run's: names first, then settings, then the technique's own.

    A setting that the run's spec does not have yet, or that its technique has not, counts from its default.
    """
    method = METHODS.get(str(spec.get("method")))
    old, new = ({**given, **(given.get("options") or {})} for given in (run.spec, spec))
    fields = [*(common_fields_for(method) if method else ()), *(method.fields if method else ())]
    rows = [(name, label, None) for name, label in MAIN.items()] + [(f.name, f.label, f.default) for f in fields]
    return [
        Change(label=label, before=_said(name, old.get(name, default)), after=_said(name, new[name]))
        for name, label, default in rows
        if name in new and shown(old.get(name, default)) != shown(new[name])
    ]
