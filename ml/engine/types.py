"""What goes into the engine, what comes out, and one row's state. Shared by all parts; imports no torch."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from ml.engine.choices import Scoring
from ml.errors import ColdframeError

FinishReason = Literal["stop", "length", "cancelled"]
RowState = Literal["queued", "loading", "ready", "prefill", "decode", "over"]


@dataclass(frozen=True, kw_only=True)
class Label:
    """One of a classifier head's labels."""

    label: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen and when the answer ends."""

    max_tokens: int = 256
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    """Taken off a token's logit for each time that the answer has it already; 0 is off."""
    presence_penalty: float = 0.0
    """Taken off the logit of every token that the answer has already; 0 is off."""
    stop: tuple[str, ...] = ()
    seed: int = 0
    """Together with the token's position it fixes every random choice."""
    n_logprobs: int = 0
    """0: no log-probabilities; n: the chosen token's and the n likeliest's."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One answer asked for, already as token ids."""

    id: str
    team_id: int
    prompt_ids: tuple[int, ...]
    artifact: str | None = None
    """sha256 of the adapter's manifest; None is the plain model."""
    label: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    choices: tuple[tuple[int, ...], ...] = ()
    """Texts to be scored as answers, as token ids with their end-of-turn token (`ml.engine.choices`)."""
    schema: str = ""
    """JSON schema, as text, that the answer must satisfy (`ml.engine.grammar`); empty: free text."""
    writes: bool = True
    """False: the scores of `choices` are all that is wanted; no answer is written."""
    emitted: tuple[int, ...] = ()
    """Answer tokens that another engine has already sent; this one goes on after them."""
    deadline: float = math.inf
    """time.monotonic() after which the answer is given up."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """The row has a slot; its prompt is about to be read."""

    id: str
    prompt_tokens: int
    prefix_tokens: int
    cached_tokens: int = 0
    """Of the prompt: its beginning was read by another row already."""
    model: str = ""
    """The adapter whose own model the row runs on; empty: the frozen one that all tasks share."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """One more token. `text` may be empty: half a character, or perhaps the beginning of a stop string."""

    id: str
    ids: tuple[int, ...]
    text: str
    step: int
    rows: int
    """Live rows of the batch in that step."""
    n: int
    """Tokens of the answer so far, this one included."""
    logprobs: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Done:
    """The end of an answer. `text` is the whole answer; `tail` is what no Token event has carried yet."""

    id: str
    finish_reason: FinishReason
    text: str
    tail: str
    prompt_tokens: int
    completion_tokens: int
    first_step: int
    last_step: int
    first_token_ms: float
    tokens_per_s: float
    slot_ms: float = 0.0
    """From entering a slot to the end, in company: what an answer takes once it is its turn."""
    scores: tuple[float, ...] = ()
    """Log probability of each of the request's choices."""
    n_scored: tuple[int, ...] = ()
    """Tokens of each, its end of turn included."""
    labels: tuple[Label, ...] = ()
    """Of an adapter that answers with a label: all its labels, the likeliest first."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    id: str
    error: ColdframeError


Event = Started | Token | Done | Failed


@dataclass(eq=False, kw_only=True)
class Row:
    """A request on its way: queued, loading its adapter, in a slot. Owned by the model's thread once queued."""

    request: Request
    stream: Any = None
    """TextStream of the answer."""
    guide: Any = None
    """Guide of the request's schema: which tokens may come next."""
    state: RowState = "queued"
    adapter: Any = None
    """What request.artifact names, once loaded; None for the plain model."""
    loading: Any = None
    """Future of the adapter."""
    prefix_tokens: int = 0
    batch: Any = None
    """The Batch that it waits or runs in; None while that is not known."""
    slot: int = -1
    position: int = 0
    """Tokens in the cache, the prefix included; also where the next one goes."""
    unread: list[int] = field(default_factory=list)
    """Ids not yet in the cache: the prompt's rest, or the one token sampled last."""
    answer: list[int] = field(default_factory=list)
    pool: Any = None
    """Pool of its final states, where the adapter is a classifier head."""
    n_to_keep: int = 0
    """Tokens of the prompt whose keys and values are to be kept for others, once they are read."""
    scoring: Scoring | None = None
    """Of the request's choices, until they are all scored."""
    scores: tuple[float, ...] = ()
    submitted: float = field(default_factory=time.monotonic)
    entered: float = 0.0
    """When it got its slot."""
    first_token: float = 0.0
    first_step: int = 0
    last_step: int = 0
    n_scratch: int = 0
    """Columns behind the prompt that scoring needs."""

    def __post_init__(self) -> None:
        self.answer = list(self.request.emitted)
        self.unread = [*self.request.prompt_ids, *self.request.emitted]
        if self.request.choices:
            self.scoring = Scoring(
                root=self.request.prompt_ids[-1], choices=self.request.choices, may_prune=not self.request.writes
            )
            self.n_scratch = self.scoring.n_columns

    @property
    def n_readable(self) -> int:
        """How many of `unread` may go into the cache now: the prompt's last token is left for the scoring."""
        return len(self.unread) - len(self.request.emitted) - 1 if self.scoring else len(self.unread)

    @property
    def n_columns(self) -> int:
        """Columns of its slot that hold something: those read, and what scoring has filled behind them."""
        return self.position + (self.scoring.n_kept if self.scoring else 0)

    @property
    def capacity(self) -> int:
        """Positions that it may need: prefix, prompt and the longest answer, or what is scored in its place. A
        classifier head needs no more than the prompt."""
        longest = max(self.request.sampling.max_tokens if self.request.writes else 0, self.n_scratch)
        if self.pool is not None:
            longest = 0
        return self.prefix_tokens + len(self.request.prompt_ids) + longest

    @property
    def form(self) -> str:
        if self.adapter is not None:
            return str(self.adapter.form)
        return "plain" if self.request.artifact is None else "unknown"
