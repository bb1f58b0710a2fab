"""The schedule of a search: which learning rates are tried, how far each goes, how many go on. Pure.

Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943): n tries are halved r = ceil(log2 n) times, at
steps ÷ 2^r, …, steps ÷ 2; the one that is left goes on to the last step.
"""

from __future__ import annotations

import math

from ml.specs.common import COMMON_FIELDS

FACTOR = math.sqrt(10)
"""Between neighbouring learning rates."""
_RATE = next(field for field in COMMON_FIELDS if field.name == "learning_rate")


def rungs(n_tries: int, steps: int) -> list[int]:
    """The steps at which tries are compared, below `steps`; empty for one try. A short training has fewer."""
    n_halvings = math.ceil(math.log2(n_tries)) if n_tries > 1 else 0
    found = {max(1, steps // 2**power) for power in range(1, n_halvings + 1)}
    return sorted(found - {steps} or ({steps} if n_halvings else set()))


def n_kept(n: int) -> int:
    """How many of n tries go on: the better half, rounded up, but never all."""
    return max(1, min(math.ceil(n / 2), n - 1))


def learning_rates(default: float, n_tries: int) -> tuple[float, ...]:
    """A ladder around the default, which is always on it, within the bounds of a learning rate; where the number is
    even, the odd one is above."""
    low, high = float(_RATE.low or 0), float(_RATE.high or math.inf)
    places = range(-((n_tries - 1) // 2), n_tries // 2 + 1)
    rates = (float(f"{default * FACTOR**place:.3g}") if place else default for place in places)
    return tuple(dict.fromkeys(min(max(rate, low), high) for rate in rates))
