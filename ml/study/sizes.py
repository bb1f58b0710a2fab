"""How quality grows with the training rows: the shares that were measured, each by the first seed.

Every point is compared with the best technique that asks the untouched model, which has all rows to choose its examples
from, and with the next smaller share; a technique's comparisons are corrected over themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml.specs.study import TECHNIQUES
from ml.study.cells import Cell
from ml.study.draws import Drawn, Standing, interval, standing
from ml.study.entries import Cells
from ml.study.pairs import differences

_KEPT = ("difference", "low", "high", "p", "p_adjusted", "is_certain")


def sizes_of(
    planned: Sequence[Cell], cells: Cells, drawn: Drawn, *, first_seed: int, asked: Standing | None
) -> dict[str, list[dict[str, Any]]]:
    """By technique, of those that were measured with more than one share; the smallest share first.

    `over_asked` of a trained technique is its distance to `asked`, `over_before` to the share before it.
    """
    points = [
        (cell, standing(drawn, cell.key, [cell.key]))
        for cell in sorted(planned, key=lambda cell: cell.share)
        if cell.seed == first_seed and cell.key in drawn.draws
    ]
    by_name: dict[str, list[tuple[Cell, Standing]]] = {}
    for cell, found in points:
        by_name.setdefault(cell.technique, []).append((cell, found))
    return {name: _curve(own, cells, drawn, asked) for name, own in by_name.items() if len(own) > 1}


def _curve(
    own: Sequence[tuple[Cell, Standing]], cells: Cells, drawn: Drawn, asked: Standing | None
) -> list[dict[str, Any]]:
    wanted: dict[tuple[str, str], tuple[Standing, Standing]] = {}
    for place, (cell, found) in enumerate(own):
        if asked is not None and TECHNIQUES[cell.technique].kind == "trained":
            wanted[(cell.key, "over_asked")] = (found, asked)
        if place:
            wanted[(cell.key, "over_before")] = (found, own[place - 1][1])
    compared = dict(zip(wanted, differences(list(wanted.values()), drawn.n_rows), strict=True))
    return [_point(cell, found, cells[cell.key], drawn, compared) for cell, found in own]


def _point(
    cell: Cell, found: Standing, kept: Mapping[str, Any], drawn: Drawn,
    compared: Mapping[tuple[str, str], Mapping[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    over = {
        name: {key: one[key] for key in _KEPT} if (one := compared.get((cell.key, name))) else None
        for name in ("over_asked", "over_before")
    }
    return {"share": cell.share, "n_train_rows": kept.get("n_train_rows"), "value": found.value,
            "interval": interval(drawn, found, n_seeds=1), **over}  # fmt: skip
