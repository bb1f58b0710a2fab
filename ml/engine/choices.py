"""How likely each of several texts is as the answer to a prompt: read as a tree, beginnings that they share once.

The prompt stays where it is in the row's slot; behind it tokens of the texts are read, each seeing the prompt and its
own beginning only, some in each forward. Their columns are scratch: they stay until the row's texts are scored, and the
row can still write an answer afterwards. No torch: the forward is `Runner.score`.

With `may_prune` the likeliest beginnings are read first, and reading ends as soon as the likeliest text is certain and
all that is unread together has at most TOLERANCE of the probability that was read: a beginning's probability bounds
that of every text with it. Guarantees then: the likeliest text is the right one and its score exact, as is every other
that was read whole; what is left out can change no share of the probability by more than TOLERANCE (on rows of
banking77 by at most .001). The score of an unread text is an estimate, SHARE of its beginning's probability. A small
set is always read whole.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

from ml.errors import ModelError

if TYPE_CHECKING:
    from ml.engine.types import Row

ROUND = 16
"""Tokens that one row reads in one forward while it searches. Rows that share a forward are padded to the same."""
SMALL = 32
"""A set with no more tokens is read whole."""
MOST_NODES = 96
"""Tokens that one row reads in one forward where every text is wanted."""
KEPT = 256
"""Columns behind a prompt that keep what was read; when they are full, beginnings are read again."""
TOLERANCE, SHARE = 0.05, 0.01
Path = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Tree:
    """What one forward reads, in an order in which parents come first."""

    ids: tuple[int, ...]
    first: int
    """Columns behind the prompt that earlier forwards have filled; the tokens go into those after them."""
    sees: tuple[tuple[int, ...], ...]
    """For each token the columns behind the prompt that it sees, its own last."""
    edges: tuple[tuple[int, int], ...]
    """(place in `ids`, token): whose log probability after that token is wanted."""
    nodes: tuple[Path, ...]
    """What each token is the end of; () is the prompt's last token."""
    paths: tuple[Path, ...]
    """What each edge is the end of."""


@dataclass(frozen=True)
class Trie:
    """The texts' tokens with what follows them; texts themselves are leaves."""

    kids: dict[Path, tuple[Path, ...]]
    n_below: dict[Path, int]
    longest: int


@lru_cache(maxsize=64)
def trie_of(choices: tuple[Path, ...]) -> Trie:
    kids: dict[Path, dict[Path, None]] = {}
    n_below: dict[Path, int] = {}
    for choice in choices:
        for n in range(len(choice)):
            kids.setdefault(choice[:n], {})[choice[: n + 1]] = None
            n_below[choice[:n]] = n_below.get(choice[:n], 0) + 1
    return Trie({path: tuple(found) for path, found in kids.items()}, n_below, max(map(len, choices)))


def n_nodes(choices: Sequence[Path]) -> int:
    """Tokens that must be read so that every token of every choice has a logit."""
    return len(trie_of(tuple(choices)).kids)


@dataclass(eq=False, kw_only=True)
class Scoring:
    """One row's texts and what is known about them; `next_tree` and `take` in turn until there is no next one."""

    root: int
    """The prompt's last token."""
    choices: Sequence[Path]
    may_prune: bool = False
    most_columns: int = KEPT
    _logprobs: dict[Path, float] = field(default_factory=dict)
    """Of a path and all its beginnings together."""
    _open: dict[Path, None] = field(default_factory=lambda: {(): None})
    """Unread paths whose beginnings were read."""
    _columns: dict[Path, int] = field(default_factory=dict)
    _planned: Tree | None = None

    def __post_init__(self) -> None:
        self._trie = trie_of(tuple(self.choices))
        self._texts = set(self.choices)
        self._logprobs[()] = 0.0

    @property
    def n_columns(self) -> int:
        """Columns behind the prompt that it may fill."""
        return min(len(self._trie.kids), max(self.most_columns, self._trie.longest))

    @property
    def n_kept(self) -> int:
        """Columns behind the prompt that it has filled."""
        return len(self._columns)

    @property
    def scores(self) -> tuple[float, ...]:
        """Log probability of each text; an estimate for those that were not read whole."""
        return tuple(self._score(choice) for choice in self.choices)

    def _score(self, choice: Path) -> float:
        if choice in self._logprobs:
            return self._logprobs[choice]
        beginning = next(choice[:n] for n in range(len(choice), -1, -1) if choice[:n] in self._logprobs)
        return self._logprobs[beginning] + math.log(SHARE)

    def _read(self) -> tuple[float, float]:
        """Log probability of the likeliest text that was read whole, and how often all of them together have it."""
        known = [self._logprobs[text] for text in self._texts if text in self._logprobs]
        best = max(known, default=-math.inf)
        return best, sum(math.exp(value - best) for value in known)

    def _order(self) -> list[Path]:
        """The unread paths that matter, the likeliest first."""
        order = sorted(self._open, key=lambda path: (-self._logprobs[path], -self._trie.n_below[path]))
        best, total = self._read()
        if not self.may_prune or best == -math.inf:
            return order
        rest = 0.0
        while order and self._logprobs[order[-1]] <= best:
            rest += math.exp(self._logprobs[order[-1]] - best)
            if rest > TOLERANCE * total:
                break
            order.pop()
        return order

    def next_tree(self) -> Tree | None:
        """What to read next; None when every text that matters is read."""
        if self._planned is None and (order := self._order()):
            is_whole = not self.may_prune or len(self._trie.kids) <= SMALL
            most = MOST_NODES if is_whole else ROUND
            wanted = self._whole() if is_whole else self._likeliest(order)
            self._planned = self._tree(list(islice(wanted, most)), most)
        return self._planned

    def _whole(self) -> Iterator[Path]:
        """Everything that is unread, text by text."""
        waiting = list(self._open)[::-1]
        while waiting:
            path = waiting.pop()
            yield path
            waiting += [kid for kid in self._trie.kids[path][::-1] if kid in self._trie.kids]

    def _likeliest(self, order: Sequence[Path]) -> Iterator[Path]:
        """The paths in their order, each with the token that must follow, the very first with all of them; then what
        follows on these, so that a forward whose other rows read more is not half empty."""
        kids = self._trie.kids
        said: dict[Path, None] = {}
        for place, path in enumerate(order):
            n_forced = len(kids) if place == 0 else 1
            said[path] = None
            while n_forced and len(kids[path]) == 1 and kids[path][0] in kids:
                path, n_forced = kids[path][0], n_forced - 1
                said[path] = None
            if len(said) >= ROUND:
                break
        waiting = deque(said)
        yield from said
        while waiting:
            more = [kid for kid in kids[waiting.popleft()] if kid in kids and kid not in said]
            more.sort(key=lambda kid: -self._trie.n_below[kid])
            waiting.extend(more)
            yield from more

    def _tree(self, wanted: Sequence[Path], most: int) -> Tree:
        """The first of the wanted paths, with the beginnings that have no column any more."""
        chosen, columns = self._chosen(wanted, most, dict(self._columns))
        if not chosen:
            self._columns = {}
            chosen, columns = self._chosen(wanted, most, {})
        place = {path: n for n, path in enumerate(chosen)}
        paths = [kid for path in chosen for kid in self._trie.kids[path]]
        return Tree(
            ids=tuple(path[-1] if path else self.root for path in chosen), first=len(columns) - len(chosen),
            sees=tuple(tuple(columns[path[:n]] for n in range(len(path) + 1)) for path in chosen),
            edges=tuple((place[kid[:-1]], kid[-1]) for kid in paths), nodes=tuple(chosen), paths=tuple(paths),
        )  # fmt: skip

    def _chosen(
        self, wanted: Sequence[Path], most: int, columns: dict[Path, int]
    ) -> tuple[list[Path], dict[Path, int]]:  # fmt: skip
        """At least one path, unless its columns are not there; and the columns with those it adds."""
        chosen: list[Path] = []
        for path in wanted:
            missing = [path[:n] for n in range(len(path) + 1) if path[:n] not in columns]
            if (chosen and len(chosen) + len(missing) > most) or len(columns) + len(missing) > self.n_columns:
                break
            for one in missing:
                columns[one] = len(columns)
            chosen += missing
        return chosen, columns

    def take(self, tree: Tree, logprobs: Sequence[float]) -> None:
        """The log probabilities of the tree's edges."""
        found = dict(zip(tree.paths, logprobs, strict=True))
        for n, path in enumerate(tree.nodes):
            self._columns[path] = tree.first + n
            if path not in self._open:
                continue
            del self._open[path]
            for kid in self._trie.kids[path]:
                self._logprobs[kid] = self._logprobs[path] + found[kid]
                if kid in self._trie.kids:
                    self._open[kid] = None
        self._planned = None


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
