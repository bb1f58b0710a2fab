"""A study as one self-contained HTML file: findings, leaderboard, charts, comparisons, and all it depends on.

No script, no request: its own policy forbids both, so that even a text that slipped through unescaped could do nothing.
Light and dark as the reader's system is, readable on a phone, printable. Every value goes through `markup.html`.
"""

from __future__ import annotations

import re

from ml.study import words
from ml.study.markup import Html, html, joined
from ml.study.report_charts import curves, quality_and_cost, sizes
from ml.study.report_scale import Scale, shares
from ml.study.report_style import STYLE
from ml.study.report_svg import whisker
from ml.study.report_tables import cells, missing, pairs, searches, seeds, settings
from ml.study.told import Entry, Told, columns_of, label_of, tag_of

_UNIT = re.compile(r"(\d) (%|×|[kMG]?B\b|ms\b|s\b|min\b|points?\b|M\b)")
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
form-action 'none'">
<title>{title} · Coldframe</title>
<style>{style}</style>
</head>
<body>
<main>
<h1><bdi>{title}</bdi></h1>
<p class="lede">{progress} · <b><bdi>{dataset}</bdi></b> on <b><bdi>{base}</bdi></b> · {measured}</p>
{sections}
</main>
</body>
</html>
"""


def as_html(told: Told) -> str:
    sections = (_findings, _leaderboard, quality_and_cost, _curves, seeds, searches, pairs, missing, settings, cells)
    return html(
        _PAGE, title=told.title, style=Html(STYLE), progress=told.progress, dataset=told.spec.get("dataset", ""),
        base=told.spec.get("base", ""), measured=told.measured,
        sections=joined((section(told) for section in sections), "\n"),
    )  # fmt: skip


def _findings(told: Told) -> Html:
    found = told.board["findings"]
    if not found:
        return Html()
    first, rest = found[0], found[1:]
    digest = joined(
        html("<dt>{term}</dt><dd>{text}</dd>", term=one["term"], text=one["text"]) for one in told.board["digest"]
    )
    more = joined(
        html("<li><b>{title}</b> <bdi>{text}</bdi></li>", title=_kept(one["title"]), text=_kept(one["text"]))
        for one in rest
    )
    return html(
        '<section class="pane long"><div class="ph"><h2>Findings</h2><span class="cap">written from the figures below, '
        'no model asked</span></div><div class="top"><p class="first"><b>{title}</b> {text}</p><dl class="kv">{digest}'
        "</dl></div>{more}</section>",
        title=_kept(first["title"]), text=_kept(first["text"]), digest=digest,
        more=html('<ul class="more">{more}</ul>', more=more) if rest else Html(),
    )  # fmt: skip


def _kept(text: str) -> str:
    """With numbers and their units on one line."""
    return _UNIT.sub("\\1\u00a0\\2", text)


def _leaderboard(told: Told) -> Html:
    entries = told.board["entries"]
    if not entries:
        return Html()
    scale = shares([bound for entry in entries for bound in entry["interval"]])
    groups = sorted({entry["group"] for entry in entries})
    bodies = joined(
        html("<tbody>{rows}</tbody>", rows=joined(_row(told, entry, scale) for entry in entries
                                                 if entry["group"] == group))
        for group in groups
    )  # fmt: skip
    heads = joined(html('<th scope="col" class="r">{name}</th>', name=name) for name, _ in columns_of(entries[0]))
    return html(
        '<section class="pane long"><div class="ph"><h2>Leaderboard</h2><span class="cap">a heavy line parts groups '
        "that differ for certain; inside a group take the cheapest</span></div><div class=\"scroll\"><table "
        'class="cards dense"><thead><tr><th scope="col">#</th><th scope="col">Technique</th><th scope="col">{metric}, '
        '{low} to {high} %</th><th scope="col" class="r">95 % interval</th>{heads}</tr></thead>{bodies}</table></div>'
        '<p class="pf">Intervals are over the test rows and, where there are several, the seeds. Tokens of a request: '
        "read + virtual → written. Size is what is kept; memory is the training's peak. Green was trained, blue was "
        "only asked.</p></section>",
        metric=told.metric_label, low=f"{100 * scale.low:.0f}", high=f"{100 * scale.high:.0f}", heads=heads,
        bodies=bodies,
    )  # fmt: skip


def _row(told: Told, entry: Entry, scale: Scale) -> Html:
    value, bounds, label = words.percent(entry["value"]), words.bounds(entry["interval"]), label_of(entry["technique"])
    tag = tag_of(entry)
    tagged = html(' <span class="tag{kind}">{tag}</span>', kind=" tag-take" if entry["is_take"] else "", tag=tag)
    costs = joined(
        html('<td class="r" data-th="{name}">{text}</td>', name=name, text=text) for name, text in columns_of(entry)
    )
    return html(
        '<tr{best}><td>{place}</td><td><span class="tech">{label}</span>{tag}</td><td data-th="{metric}">{whisker}</td>'
        '<td class="r" data-th="95 % interval"><span class="iv-text"><b>{value}</b> <span>{bounds}</span></span></td>'
        "{costs}</tr>",
        best=Html(' class="take"') if entry["is_take"] else Html(), place=entry["place"], label=label,
        tag=tagged if tag else Html(), metric=told.metric_label, value=value.removesuffix(" %"), bounds=bounds,
        whisker=whisker(entry["value"], entry["interval"], scale, is_asked=entry["kind"] == "prompt",
                        label=f"{value}, 95 % interval {bounds}"),
        costs=costs,
    )  # fmt: skip


def _curves(told: Told) -> Html:
    found = [chart for chart in (curves(told), sizes(told)) if chart]
    return html('<div class="panes">{found}</div>', found=joined(found)) if found else Html()
