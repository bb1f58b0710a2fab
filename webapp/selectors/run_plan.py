"""A run that is about to be submitted, in words, as YAML and as an API call."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import yaml

from ml.specs import COMMON_FIELDS, METHODS, Method, how_served, serving_form, why_not_served
from webapp.forms.runs import TrainForm
from webapp.models import DatasetVersion, Run
from webapp.selectors.run_specs import Change, changes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the summary beside the form shows."""

    method: Method
    base: str
    version: DatasetVersion | None
    adapter: str
    values: dict[str, Any]
    problems: list[str]
    n_rows_seen: int
    n_passes: float
    yaml: str
    curl: str
    served: str = ""
    """How chat will answer with it."""
    unserved: str = ""
    """Why chat will not be able to ask what comes out; "" when it will."""
    original: Run | None = None
    """The run that is cloned."""
    changes: list[Change] = field(default_factory=list)
    """What differs from it."""


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, as people write them."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def spec_yaml(spec: dict[str, Any]) -> str:
    return yaml.dump(spec, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=100)


def plan_of(form: TrainForm, *, origin: str, original: Run | None = None) -> Plan:
    """The plan of a bound form, valid or not; of a clone with what differs from `original`."""
    form.is_valid()
    version, values = form.version, form.given
    adapter = str(form["adapter"].value() or "").strip()
    n_seen = int(values.get("steps", 0)) * int(values.get("batch_size", 0))
    n_train = version.splits.get("train", 0) if version else 0
    spec = {"adapter": adapter, "dataset": str(version) if version else ""}
    order = ("base", "method", *(common.name for common in COMMON_FIELDS), "options")
    spec |= {name: values[name] for name in order if values.get(name) not in (None, {})}
    problems = [_named(form, name, text) for name, texts in form.errors.items() for text in texts]
    return Plan(
        method=METHODS[form.chosen.name], base=str(values.get("base") or ""), version=version, adapter=adapter,
        values=values, problems=problems, n_rows_seen=n_seen, n_passes=n_seen / n_train if n_train else 0.0,
        yaml=spec_yaml(spec), curl=_curl(spec, origin), original=original,
        unserved=_unserved(form), served=how_served(serving_form(form.spec)) if form.spec else "",
        changes=changes(original, spec) if original else [],
    )  # fmt: skip


def _unserved(form: TrainForm) -> str:
    return why_not_served(serving_form(form.spec), form.family) if form.spec else ""


def _named(form: TrainForm, name: str, text: str) -> str:
    """The problem with its field's label in front, unless it begins with it."""
    label = str(form.fields[name].label) if name in form.fields else ""
    return text if not label or text.startswith(label) else f"{label}: {text}"


def _curl(spec: dict[str, Any], origin: str) -> str:
    body = json.dumps(spec, ensure_ascii=False).replace("'", "'\\''")
    return (
        f"curl {origin}/v1/runs \\\n"
        '  -H "Authorization: Bearer $COLDFRAME_TOKEN" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d '{body}'"
    )
