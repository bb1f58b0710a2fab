"""HTML out of templates whose values are escaped unless they are HTML already. Nothing else makes HTML in reports."""

from __future__ import annotations

import html as standard
from collections.abc import Iterable
from typing import Any

_INVISIBLE = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127), "\ufffd")


class Html(str):
    """Text that is markup."""

    __slots__ = ()


def safe(value: Any) -> Html:
    """Markup as it is; anything else as text, escaped for elements and quoted attributes."""
    return value if isinstance(value, Html) else Html(standard.escape(str(value).translate(_INVISIBLE)))


def html(template: str, /, **values: Any) -> Html:
    """`template` with its `{names}` filled in."""
    return Html(template.format(**{name: safe(value) for name, value in values.items()}))


def joined(parts: Iterable[Any], between: str = "") -> Html:
    return Html(safe(between).join(safe(part) for part in parts))
