"""How likely each of several texts is as the answer to a prompt: read as trees beside one another, not one by one.

The prompt stays where it is in the row's slot; behind it the texts' tokens are read in one forward, beginnings that
they share once, each token seeing the prompt and its own beginning only. The columns behind the prompt are scratch: the
row can still write an answer afterwards. No torch: the forward is `Runner.score`.

With `may_prune`, texts are first judged by their beginnings: one whose beginning alone is `MARGIN` nats less likely
than the best whole text is not read to its end, and its score is that of its beginning, an upper bound. The likeliest
text is always the right one; the probabilities of the others are then off by less than e^-10 each. A set that fits one
forward is always read whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ml.errors import ModelError

if TYPE_CHECKING:
    from ml.engine.types import Row

MOST_NODES = 96
"""Tokens that one row reads beside one another in one forward; a single longer text is read all the same."""
MARGIN = 10.0
"""Nats."""
Path = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Tree:
    """What one forward reads: nodes in an order in which parents come first. Node 0 is the prompt's last token."""

    ids: tuple[int, ...]
    parents: tuple[int, ...]
    """Index of each node's parent; -1 of node 0."""
    depths: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]
    """(node, token): whose log probability after that node is wanted."""
    paths: tuple[Path, ...]
    """What each edge is the end of: the text's tokens up to and with it."""


def n_nodes(choices: Sequence[Path]) -> int:
    """Tokens that must be read so that every token of every choice has a logit."""
    return len({choice[:n] for choice in choices for n in range(len(choice))})


@dataclass(eq=False, kw_only=True)
class Scoring:
    """One row's texts and what is known about them; `next_tree` and `take` in turn until there is no next one."""

    root: int
    """The prompt's last token."""
    choices: Sequence[Path]
    may_prune: bool = False
    _known: dict[Path, float] = field(default_factory=dict)
    """Log probability of a path's last token after the rest of it."""

    @property
    def n_columns(self) -> int:
        """Columns behind the prompt that the largest tree may need."""
        return min(n_nodes(self.choices), max(MOST_NODES, *(len(choice) for choice in self.choices)))

    @property
    def scores(self) -> tuple[float, ...]:
        """Log probability of each whole text; of a pruned one, that of its beginning."""
        return tuple(self._bound(choice) for choice in self.choices)

    def _bound(self, choice: Path) -> float:
        known = (self._known.get(choice[:n]) for n in range(1, len(choice) + 1))
        return sum(value for value in known if value is not None)

    def _is_whole(self, choice: Path) -> bool:
        return choice in self._known

    def _open(self) -> list[Path]:
        """Texts that may still matter, the likeliest beginning first."""
        best = max((self._bound(c) for c in self.choices if self._is_whole(c)), default=-float("inf"))
        floor = best - MARGIN if self.may_prune else -float("inf")
        unread = {c: self._bound(c) for c in self.choices if not self._is_whole(c)}
        return sorted((c for c, bound in unread.items() if bound >= floor), key=lambda c: -unread[c])

    def next_tree(self) -> Tree | None:
        """What to read next; None when every text that matters is read."""
        left = self._open()
        if not left:
            return None
        if self.may_prune and n_nodes(self.choices) > MOST_NODES:
            if not self._known:
                return self._tree([choice[:1] for choice in left])
            if not any(self._is_whole(choice) for choice in self.choices):
                return self._tree(left[:1])
        chosen: list[Path] = []
        nodes: set[Path] = set()
        for choice in left:
            more = nodes | {choice[:n] for n in range(len(choice))}
            if chosen and len(more) > MOST_NODES:
                break
            chosen, nodes = [*chosen, choice], more
        return self._tree(chosen)

    def _tree(self, choices: Sequence[Path]) -> Tree:
        place: dict[Path, int] = {}
        edges: dict[Path, tuple[int, int]] = {}
        for choice in choices:
            for n, token in enumerate(choice):
                place.setdefault(choice[:n], len(place))
                edges[choice[: n + 1]] = (place[choice[:n]], token)
        return Tree(
            ids=tuple(path[-1] if path else self.root for path in place),
            parents=tuple(place[path[:-1]] if path else -1 for path in place),
            depths=tuple(len(path) for path in place),
            edges=tuple(edges.values()),
            paths=tuple(edges),
        )

    def take(self, tree: Tree, logprobs: Sequence[float]) -> None:
        """The log probabilities of the tree's edges."""
        self._known |= dict(zip(tree.paths, logprobs, strict=True))


def advance(rows: Sequence[Row], score: Callable[[int, Sequence[Tree], Sequence[int]], list[list[float]]]) -> list[Row]:
    """One forward by `score` (first slot, trees, positions) for neighbouring rows; returns those that need no more.

    Raises ModelError when a row's values are not finite.
    """
    pairs = [(row, row.scoring, tree) for row in rows if row.scoring and (tree := row.scoring.next_tree())]
    found = score(rows[0].slot, [tree for *_, tree in pairs], [row.position for row, *_ in pairs]) if pairs else []
    if not all(math.isfinite(value) for logprobs in found for value in logprobs):
        raise ModelError("The model produced values that are not finite.", hint="Train the adapter again.")
    scored = []
    for (row, scoring, tree), logprobs in zip(pairs, found, strict=True):
        scoring.take(tree, logprobs)
        if scoring.next_tree() is None:
            row.scores, row.scoring = scoring.scores, None
            row.first_token = row.first_token or time.monotonic()
            scored.append(row)
    return scored
