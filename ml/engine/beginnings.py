"""Which beginnings of prompts come again: system text, instruction and examples of a task. No torch: tested by itself.

Rows of one flow (team, adapter, name) are compared with the row before them. What two of them began with in the same
way is worth keeping when it is long enough; later rows of the flow copy as much of it as they share, and read only the
rest. A flow never sees what another one kept, so that nobody can tell from the speed what others ask.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import takewhile

MIN_TOKENS = 32
"""Shorter beginnings are read again: copying them would save little."""
N_FLOWS = 256
"""Flows that are remembered; the one longest unused is forgotten first."""
N_KEPT = 4
"""Beginnings of one flow."""
Flow = tuple[int, str, str]
"""Team, adapter ("" is the plain model), what people call it."""
Key = tuple[int, str, str]
"""Team, adapter, hash of the token ids."""


@dataclass
class _Seen:
    last: Sequence[int] = ()
    kept: list[tuple[Sequence[int], Key]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Found:
    """For one prompt."""

    key: Key | None = None
    n_tokens: int = 0
    """How many of its first tokens are kept under `key`."""
    n_to_keep: int = 0
    """How many are worth keeping, now that they came twice."""


class Beginnings:
    """`is_kept` says whether a key's values are still in memory."""

    def __init__(self, is_kept: Callable[[Key], bool], *, min_tokens: int = MIN_TOKENS) -> None:
        self._is_kept = is_kept
        self._min_tokens = min_tokens
        self._flows: OrderedDict[Flow, _Seen] = OrderedDict()
        self.n_rows = 0
        self.n_hits = 0
        """Rows whose beginning was there."""
        self.n_tokens = 0
        """Tokens that these did not have to read."""

    def look(self, flow: Flow, ids: Sequence[int]) -> Found:
        """What a row with the prompt `ids` can copy, and what of it is worth keeping. At least one token is left."""
        seen = self._flows.setdefault(flow, _Seen())
        self._flows.move_to_end(flow)
        if len(self._flows) > N_FLOWS:
            self._flows.popitem(last=False)
        seen.kept = [entry for entry in seen.kept if self._is_kept(entry[1])]
        n_shared, key = max(((n_common(kept, ids), key) for kept, key in seen.kept), default=(0, None))
        n_again, seen.last = n_common(seen.last, ids), ids
        n_tokens = min(n_shared, len(ids) - 1) if n_shared >= self._min_tokens else 0
        self.n_rows += 1
        if n_tokens:
            self.n_hits += 1
            self.n_tokens += n_tokens
        n_new = n_again - n_tokens
        return Found(
            key=key if n_tokens else None, n_tokens=n_tokens, n_to_keep=n_again if n_new >= self._min_tokens else 0
        )

    def keep(self, flow: Flow, ids: Sequence[int]) -> tuple[Key | None, list[Key]]:
        """The key for a beginning's values, and keys that it makes superfluous. None: it is there already."""
        seen = self._flows.setdefault(flow, _Seen())
        if any(n_common(kept, ids) == len(ids) and self._is_kept(key) for kept, key in seen.kept):
            return None, []
        covered = [(kept, key) for kept, key in seen.kept if n_common(kept, ids) == len(kept)]
        rest = [entry for entry in seen.kept if entry not in covered]
        surplus = rest[: max(len(rest) - N_KEPT + 1, 0)]
        digest = blake2b(b"".join(i.to_bytes(4) for i in ids), digest_size=16).hexdigest()
        key = (flow[0], flow[1], digest)
        seen.kept = [*rest[len(surplus) :], (ids, key)]
        return key, [old for _, old in (*covered, *surplus)]


def n_common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
