"""What a number of test rows can tell apart, before anything is measured.

Two techniques answer the same rows, each right or wrong. What counts are the rows that one alone has right; whether
they favour one more than chance would is a binomial (sign) test. The size of the smallest difference that it finds with
80 % power follows from the normal approximation, given how many rows the two disagree on: a fifth is assumed, which is
usual between a good and a fair technique. Many comparisons at once, as a leaderboard has them, need more.
"""

from __future__ import annotations

from math import sqrt

DISAGREEING = 0.2
"""Share of the rows that one of two techniques alone has right."""
_Z_LEVEL = 1.959963984540054
"""Of a two-sided test at 5 %."""
_Z_POWER = 0.8416212335729143
"""Of 80 %."""
_TURNS = 40


def points_apart(n_rows: int, *, disagreeing: float = DISAGREEING) -> float | None:
    """The smallest difference, as a share of 1, that `n_rows` rows show with 80 % power; None where even a technique
    that wins every row in dispute would be missed."""

    def rows_for(difference: float) -> float:
        spread = sqrt(max(0.0, disagreeing - difference**2))
        return ((_Z_LEVEL * sqrt(disagreeing) + _Z_POWER * spread) / difference) ** 2

    low, high = 1e-6, disagreeing
    if rows_for(high) > n_rows:
        return None
    for _ in range(_TURNS):
        middle = (low + high) / 2
        low, high = (middle, high) if rows_for(middle) > n_rows else (low, middle)
    return high
