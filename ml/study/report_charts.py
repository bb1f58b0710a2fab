"""The charts of the HTML report: quality against four costs, learning curves, and quality by training rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ml.study import words
from ml.study.entries import tokens
from ml.study.markup import Html, html, joined
from ml.study.report_scale import Scale, linear, logarithmic, shares
from ml.study.report_svg import Line, Point, lines, scatter
from ml.study.told import Entry, Told, label_of

_COSTS: Sequence[tuple[str, str, str, Callable[[Entry], float | None], Callable[[float], str]]] = (
    ("latency", "latency", "median of a request, log scale", lambda e: e["latency_p50_ms"], words.milliseconds),
    ("size", "size", "bytes kept, log scale", lambda e: e["artifact_bytes"], words.size),
    ("training", "training", "time of one training, log scale",
     lambda e: 0.0 if e["kind"] == "prompt" else e["train_s"], words.duration),
    ("tokens", "tokens", "read, virtual and written a request, log scale", tokens, words.count),
)  # fmt: skip


def quality_and_cost(told: Told) -> Html:
    """A chart a cost, of the entries whose cost is known."""
    entries = told.board["entries"]
    if not entries:
        return Html()
    y = shares([bound for entry in entries for bound in entry["interval"]])
    panes = [_cost(told, entries, y, *cost) for cost in _COSTS]
    return html('<div class="panes">{panes}</div>', panes=joined(panes))


def _cost(
    told: Told, entries: Sequence[Entry], y: Scale, front: str, title: str, note: str,
    cost_of: Callable[[Entry], float | None], text: Callable[[float], str],
) -> Html:  # fmt: skip
    known = [(entry, cost) for entry in entries if (cost := cost_of(entry)) is not None]
    if not known:
        return Html()
    points = [
        Point(place=entry["place"], x=cost, y=entry["value"], interval=entry["interval"],
              on_front=entry["front"][front], is_asked=entry["kind"] == "prompt",
              label=f"{label_of(entry['technique'])}: {words.percent(entry['value'])}, {text(cost)}")
        for entry, cost in known
    ]  # fmt: skip
    best = words.listed([f"{label_of(entry['technique'])}" for entry, _ in known if entry["front"][front]])
    label = f"{told.metric_label} against {title}. Nothing is both better and cheaper than {best}."
    chart = scatter(points, logarithmic([point.x for point in points], text=text), y, label=label)
    caption = "Numbers as in the leaderboard. Filled: nothing is both better and cheaper."
    return _pane(f"Quality and {title}", note, chart, html('<p class="cap">{caption}</p>', caption=caption))


def curves(told: Told) -> Html:
    """The validation rows while training, by the first seed; the loss where there is no share of right answers."""
    found = [(entry, told.board["curves"][entry["technique"]]) for entry in told.board["entries"]
             if told.board["curves"].get(entry["technique"])]  # fmt: skip
    has_values = any(look.get("value") is not None for _, looks in found for look in looks)
    name = "value" if has_values else "loss"
    drawn = []
    for entry, looks in found:
        last = max(look["step"] for look in looks) or 1
        points = [(look["step"] / last, look[name]) for look in looks if look.get(name) is not None]
        if points:
            drawn.append(Line(place=entry["place"], label=label_of(entry["technique"]), points=points))
    if not drawn:
        return Html()
    values = [value for line in drawn for _, value in line.points]
    y = shares(values) if has_values else linear(values)
    tenths = [(tenth / 4, f"{25 * tenth} %") for tenth in range(5)]
    x = Scale(low=0.0, high=1.0, ticks=tenths)
    what = "right, of the validation rows" if has_values else "loss on the validation rows"
    label = f"Learning curves of {words.listed([line.label for line in drawn])}: {what}."
    note = f"{'% ' if has_values else ''}{what}, by share of each training; first seed"
    return _pane("Learning curves", note, lines(drawn, x, y, label=label), _legend(drawn))


def sizes(told: Told) -> Html:
    """Quality by training rows, the best untrained one and the guess across."""
    board, drawn = told.board, []
    for entry in board["entries"]:
        points = [point for point in board["sizes"].get(entry["technique"], ()) if point["n_train_rows"]]
        if len(points) > 1:
            drawn.append(Line(
                place=entry["place"], label=label_of(entry["technique"]),
                points=[(point["n_train_rows"], point["value"]) for point in points],
                intervals=[point["interval"] for point in points],
            ))  # fmt: skip
    if not drawn:
        return Html()
    rules = [(entry["value"], label_of(entry["technique"])) for entry in board["entries"]
             if entry["technique"] == board["best_untrained"]]  # fmt: skip
    if board["guess"] is not None:
        rules.append((board["guess"], "guessing the most common label"))
    values = [bound for line in drawn for bounds in line.intervals for bound in bounds]
    y = shares([*values, *(value for value, _ in rules)])
    rows = sorted({n for line in drawn for n, _ in line.points})
    x = Scale(low=rows[0] / 1.1, high=rows[-1] * 1.02, ticks=[(n, f"{n:,.0f}") for n in rows], is_log=True)
    label = f"{told.metric_label} by training rows of {words.listed([line.label for line in drawn])}."
    note = f"{words.midsentence(told.metric_label)} by training rows, first seed, log scale"
    return _pane("Quality by training rows", note, lines(drawn, x, y, label=label, rules=rules), _legend(drawn))


def _legend(drawn: Sequence[Line]) -> Html:
    items = joined(
        html('<li><svg class="curve {style}" aria-hidden="true"><line x1="0" x2="24" y1="4" y2="4"/></svg>'
             "<span><b>{place}</b> {label}</span></li>", style=line.style, place=line.place, label=line.label)
        for line in drawn
    )  # fmt: skip
    return html('<ul class="legend">{items}</ul>', items=items)


def _pane(title: str, note: str, chart: Html, below: Html) -> Html:
    return html(
        '<section class="pane"><div class="ph"><h2>{title}</h2><span class="cap">{note}</span></div><div class="pb">'
        "{chart}{below}</div></section>", title=title, note=note, chart=chart, below=below,
    )  # fmt: skip
