"""The tables of the HTML report below its charts: seeds, searches, comparisons, what is missing, settings, cells."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ml.study import words
from ml.study.markup import Html, html, joined, safe
from ml.study.told import Cell, Told, label_of, p_of, why_of

Column = tuple[str, bool]
"""Its head, and whether it holds figures."""


def seeds(told: Told) -> Html:
    """The value of every seed, of techniques with several."""
    numbers = told.board["seeds"]
    entries = [entry for entry in told.board["entries"] if entry["n_seeds"] > 1]
    if len(numbers) < 2 or not entries:
        return Html()
    rows = []
    for entry in entries:
        by_seed = {one["seed"]: one for one in entry["per_seed"]}
        rows.append([
            label_of(entry["technique"]), *(_seed(by_seed.get(number)) for number in numbers),
            words.NOTHING if entry["spread"] is None else words.points(entry["spread"]),
        ])  # fmt: skip
    columns = [("Technique", False), *((f"Seed {number}", True) for number in numbers), ("Spread", True)]
    return _section("Seeds", "the same rows, trained or drawn anew", _table(columns, rows))


def _seed(one: Mapping[str, Any] | None) -> Html | str:
    if one is None or one["value"] is None:
        return str(one["state"]).replace("_", " ") if one else words.NOTHING
    return html('<span class="iv-text"><b>{value}</b> <span>{bounds}</span></span>',
                value=words.percent(one["value"]).removesuffix(" %"), bounds=words.bounds(one["interval"]))  # fmt: skip


def searches(told: Told) -> Html:
    """What every learning rate came to before it was dropped or kept."""
    rows = [
        [label_of(name), words.rate(one["learning_rate"]), _state(one), *_last(one)]
        for name, tries in told.board["tries"].items() for one in tries
    ]  # fmt: skip
    if not rows:
        return Html()
    columns = [("Technique", False), ("Learning rate", True), ("", False), ("Last step", True), ("Validation", True),
               ("Loss", True)]  # fmt: skip
    note = "the same number for every technique, compared on the validation rows by successive halving"
    return _section("Learning rates tried", note, _table(columns, rows), is_closed=f"All {len(rows)} tries")


def _state(one: Mapping[str, Any]) -> Html:
    kind = {"kept": "ok", "failed": "no"}.get(one["state"], "soft")
    return html('<span class="{kind}">{state}</span>', kind=kind, state=one["state"])


def _last(one: Mapping[str, Any]) -> list[str]:
    rung = one["rungs"][-1] if one["rungs"] else {}
    loss = rung.get("loss")
    return [str(rung.get("step", "")), words.percent(rung.get("value")), "" if loss is None else f"{loss:.3g}"]


def pairs(told: Told) -> Html:
    """The best against all others, and behind a fold every pair."""
    found = told.board["pairs"]
    if not found:
        return Html()
    columns = [("Higher", False), ("Lower", False), ("Difference", True), ("95 % interval", True), ("p", True),
               ("p, corrected", True), ("", False), ("Right alone", True), ("Rows needed", True)]  # fmt: skip
    first = [_pair(pair) for pair in found if pair["a"] == told.board["best"]]
    rest = [_pair(pair) for pair in found if pair["a"] != told.board["best"]]
    shown = _table(columns, first)
    if rest:
        shown = html("{shown}<details><summary>The other {n} pairs</summary>{rest}</details>", shown=shown, n=len(rest),
                     rest=_table(columns, rest))  # fmt: skip
    note = (
        "on the same rows, corrected by Holm's method; rows needed are for 80 % power at the difference that was seen"
    )
    return _section("Comparisons", note, shown)


def _pair(pair: Mapping[str, Any]) -> list[Html | str]:
    kind, verdict = ("ok", "certain") if pair["is_certain"] else ("soft", "open")
    needed = pair["rows_needed"]
    return [
        label_of(pair["a"]), label_of(pair["b"]), words.points(pair["difference"]),
        words.bounds([pair["low"], pair["high"]]), p_of(pair["p"]), p_of(pair["p_adjusted"]),
        html('<span class="{kind}">{verdict}</span>', kind=kind, verdict=verdict),
        f"{pair['only_a']} : {pair['only_b']}", f"{needed:,}" if needed else words.NOTHING,
    ]  # fmt: skip


def missing(told: Told) -> Html:
    rows = [
        [html('<span class="mono">{key}</span>', key=cell["key"]),
         html('<span class="no">failed</span>') if cell["state"] == "failed" else "left out",
         html("<bdi>{why}</bdi>", why=why_of(cell))]
        for cell in told.cells if cell["state"] in ("failed", "left_out")
    ]  # fmt: skip
    columns = [("Cell", False), ("State", False), ("Why", False)]
    return _section("Not measured", "", _table(columns, rows)) if rows else Html()


def settings(told: Told) -> Html:
    made = [(term, html('<span class="mono">{text}</span>', text=text) if term in _CODE else text)
            for term, text in told.surroundings()]  # fmt: skip
    return html(
        '<div class="panes"><section class="pane"><div class="ph"><h2>Settings</h2></div><div class="pb">{settings}'
        '</div></section><section class="pane"><div class="ph"><h2>How the figures were made</h2></div><div class="pb">'
        "{made}</div></section></div>", settings=_kv(told.settings()), made=_kv(made),
    )  # fmt: skip


_CODE = ("Command", "Data set, sha256", "Base model, fingerprint", "Commit")


def _kv(pairs: Sequence[tuple[str, Any]]) -> Html:
    return html('<dl class="kv plain-kv">{pairs}</dl>', pairs=joined(
        html("<dt>{term}</dt><dd><bdi>{text}</bdi></dd>", term=term, text=text) for term, text in pairs))  # fmt: skip


def cells(told: Told) -> Html:
    """Every cell with its spec: what it takes to make its figures again."""
    rows = [_cell(cell) for cell in told.cells]
    if not rows:
        return Html()
    columns = [("Cell", False), ("Seed", True), ("Training rows", True), (told.metric_label, True), ("Rate", True),
               ("Steps", True), ("Time", True), ("Spec", False)]  # fmt: skip
    note = "each with its seed and spec; command and versions are the study's"
    return _section("Cells", note, _table(columns, rows, kind="cells"), is_closed=f"All {len(rows)} cells")


def _cell(cell: Cell) -> list[Html | str]:
    value = "failed" if cell["state"] == "failed" else "left out"
    if cell["state"] == "done":
        value = f"{words.percent(cell.get('value'))} {words.bounds(cell.get('interval'))}"
    n_rows, steps = cell.get("n_train_rows"), cell.get("steps")
    spec = json.dumps(cell.get("spec"), indent=1, sort_keys=True, ensure_ascii=False)
    identity = str(cell.get("identity") or "")
    fold = html(
        "<details><summary>{name}</summary><pre>{spec}</pre></details>", name=identity[:12] or "spec", spec=spec
    )
    return [
        html('<span class="mono">{key}</span>', key=cell["key"]), str(cell["seed"]), f"{n_rows:,}" if n_rows else "",
        value, words.rate(cell.get("learning_rate")), str(steps or words.NOTHING), words.duration(cell.get("seconds")),
        fold if cell.get("spec") is not None else Html(),
    ]  # fmt: skip


def _section(title: str, note: str, inside: Html, *, is_closed: str = "") -> Html:
    """`is_closed`: what stands at the fold that hides the inside."""
    if is_closed:
        inside = html("<details><summary>{text}</summary>{inside}</details>", text=is_closed, inside=inside)
    return html(
        '<section class="pane long"><div class="ph"><h2>{title}</h2><span class="cap">{note}</span></div>{inside}'
        "</section>", title=title, note=note, inside=inside,
    )  # fmt: skip


def _table(columns: Sequence[Column], rows: Sequence[Sequence[Html | str]], *, kind: str = "") -> Html:
    heads = joined(html('<th scope="col"{right}>{name}</th>', right=_right(is_figure), name=name)
                   for name, is_figure in columns)  # fmt: skip
    body = joined(
        html("<tr>{cells}</tr>", cells=joined(
            html("<td{right}{name}>{cell}</td>", right=_right(is_figure), cell=safe(cell),
                 name=html(' data-th="{name}"', name=name) if name and place else Html())
            for place, ((name, is_figure), cell) in enumerate(zip(columns, row, strict=True))
        ))
        for row in rows
    )  # fmt: skip
    return html('<div class="scroll"><table class="cards {kind}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody>'
                "</table></div>", kind=kind, heads=heads, body=body)  # fmt: skip


def _right(is_figure: bool) -> Html:
    return Html(' class="r"') if is_figure else Html()
