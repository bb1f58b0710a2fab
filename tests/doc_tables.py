"""The tables of techniques and settings as docs/api.md has them; run as a module, prints them to be pasted there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ml.specs import COMMON_FIELDS, METHODS, Field, Method, how_served, why_not_served

Row = tuple[str, ...]


def written(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if value != "" else "empty"


def bounds(field: Field) -> str:
    if field.kind == "bool":
        return "true or false"
    if field.kind == "choice":
        return ", ".join(f"`{choice}`" for choice in field.choices)
    if field.kind == "text":
        return f"at most {field.high:g} characters" if field.high else "text"
    return f"{written(field.low)} to {written(field.high)}" + (f" {field.unit}" if field.unit else "")


def described(field: Field) -> Row:
    return f"`{field.name}`", written(field.default), bounds(field), field.help.replace("|", "\\|")


def _own(method: Method) -> str:
    return ", ".join(f"`{name}` {written(value)}" for name, value in method.defaults.items())


def table(head: Row, rows: Iterable[Row]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def techniques() -> str:
    """One row a technique."""
    return table(
        ("`method`", "base models", "data", "its own defaults", "answers in chat"),
        ((f"`{m.name}` ({m.label}, arXiv {m.arxiv})", ", ".join(f.replace("_", "-") for f in m.families),
          ", ".join(m.tasks), _own(m),
          f"no: {why}" if (why := why_not_served(m.form)) else f"on a decoder; {how_served(m.form)}")
         for m in METHODS.values()),
    )  # fmt: skip


def settings() -> str:
    """One row a setting that every technique has."""
    return table(("key", "default", "bounds", "what it does"), (described(field) for field in COMMON_FIELDS))


def options() -> str:
    """One row a technique's own setting."""
    return table(
        ("`method`", "key under `options`", "default", "bounds", "what it does"),
        ((f"`{m.name}`", *described(field)) for m in METHODS.values() for field in m.fields),
    )


if __name__ == "__main__":
    print(techniques(), settings(), options(), sep="\n\n")
