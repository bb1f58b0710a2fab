"""Lists that search, sort and page the same way everywhere.

A view calls `listing(request, queryset, …)` and hands the result to its template as `listing`; the tags `sort_header`
and the part `_parts/pager.html` do the rest. Only columns named in `sortable` can be sorted by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.core.paginator import Page, Paginator
from django.db.models import Q, QuerySet
from django.http import HttpRequest

PAGE_SIZE = 25


@dataclass(frozen=True)
class Listing:
    """A page of rows and how it was asked for."""

    page: Page
    query: str
    sort: str
    n_all: int
    kept: Mapping[str, str] = field(default_factory=dict)
    """Further parameters of the address that narrow the list, e.g. {"method": "lora"}."""

    def __iter__(self) -> Any:
        return iter(self.page)

    @property
    def is_searched(self) -> bool:
        return bool(self.query or self.kept)

    def url(self, *, sort: str | None = None, page: int | None = None) -> str:
        """The query string of this list with another order or page."""
        from urllib.parse import urlencode

        values = {**self.kept, "q": self.query, "sort": self.sort if sort is None else sort, "page": page or ""}
        return "?" + urlencode({key: value for key, value in values.items() if value})


def listing(
    request: HttpRequest,
    rows: QuerySet,
    *,
    search: Sequence[str] = (),
    sortable: Mapping[str, str] | None = None,
    default: str = "",
    page_size: int = PAGE_SIZE,
    exact: Mapping[str, str] | None = None,
) -> Listing:
    """`rows` narrowed by ?q= and by `exact` (parameter → column), ordered by ?sort= (a key of `sortable`, `-` in front
    for descending), cut by ?page=."""
    query = request.GET.get("q", "").strip()[:200]
    n_all = rows.count()
    if query and search:
        wanted = Q()
        for column in search:
            wanted |= Q(**{f"{column}__icontains": query})
        rows = rows.filter(wanted)
    kept = {name: value[:200] for name in exact or {} if (value := request.GET.get(name, ""))}
    for name, value in kept.items():
        rows = rows.filter(**{(exact or {})[name]: value})
    sort = request.GET.get("sort", default)
    column = (sortable or {}).get(sort.removeprefix("-"))
    if column:
        rows = rows.order_by(("-" if sort.startswith("-") else "") + column, "-pk")
    page = Paginator(rows, page_size).get_page(request.GET.get("page"))
    return Listing(page, query, sort if column else default, n_all, kept)
