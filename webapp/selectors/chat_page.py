"""What the chat page shows of turns and answers: rendered text, sources, figures, links. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.urls import NoReverseMatch, reverse
from django.utils.safestring import SafeString

from ml.specs import METHODS
from webapp.models import Adapter, Citation, Conversation, Message, Prompt, PromptVersion, Team
from webapp.rendering import render_answer
from webapp.selectors.chat import OPEN, Turn, is_open, is_overdue
from webapp.selectors.targets import BASE, PROMPT
from webapp.services.answers import OVERDUE

GLYPHS = {"zero_shot": "t-zero", "few_shot": "t-few", "chain_of_thought": "t-cot"}
TECHNIQUES = dict(PromptVersion.Technique.choices)
FIGURES = (
    "engine", "first_step", "last_step", "prompt_tokens", "prefix_tokens", "dropped", "first_token_ms", "tokens_per_s",
    "n_dropped_markers", "finish_reason", "model",
)  # fmt: skip


def glyph_of(method: str) -> str:
    return GLYPHS.get(method, method or "t-zero")


def label_of(method: str) -> str:
    """A technique in words."""
    if method in METHODS:
        return METHODS[method].label
    return TECHNIQUES.get(method, method or "frozen model")


def _url(name: str, *arguments: Any) -> str:
    try:
        return reverse(name, args=arguments)
    except NoReverseMatch:
        return ""


def _passage_url(collection_id: Any, document_id: Any, version_id: Any, start: Any, end: Any) -> str:
    """The document's page, opened at a passage of the version that was read."""
    if not (collection_id and document_id and version_id):
        return ""
    url = _url("collections:document", collection_id, document_id)
    return f"{url}?version={version_id}&start={start or 0}&end={end or 0}#passage" if url else ""


def source_of(citation: Citation) -> dict[str, Any]:
    document = citation.version.document if citation.version else None
    url = ""
    if document is not None and not document.is_deleted:
        url = _passage_url(document.collection_id, document.pk, citation.version_id, citation.start, citation.end)
    return {
        "n": citation.number, "title": citation.title, "text": citation.text, "page": citation.page,
        "start": citation.start, "end": citation.end, "score": citation.score, "cited": citation.is_cited, "url": url,
    }  # fmt: skip


def source_of_event(source: Mapping[str, Any], collection_id: int | None) -> dict[str, Any]:
    """The same shape from a source in a stream."""
    kept = {key: source.get(key) for key in ("n", "title", "text", "page", "start", "end", "score")}
    url = _passage_url(
        collection_id, source.get("document_id"), source.get("document_version_id"), kept["start"], kept["end"]
    )
    return {**kept, "cited": False, "url": url}


@dataclass(frozen=True)
class AnswerView:
    """One column."""

    message: Message
    html: SafeString | str
    sources: list[dict[str, Any]]
    url: str
    """Page of the target; "" for none."""

    @property
    def pk(self) -> int:
        return self.message.pk

    @property
    def is_open(self) -> bool:
        return is_open(self.message)

    @property
    def asked(self) -> str:
        return str(self.message.info.get("asked", {}).get("name") or self.message.target)

    @property
    def name(self) -> str:
        return "plain model" if self.message.target == BASE else self.asked.removeprefix(PROMPT).partition("@")[0]

    @property
    def which(self) -> str:
        """Alias or number, as it was asked for; the number it resolved to where a bare name was."""
        return "" if self.message.target == BASE else (self.asked.partition("@")[2] or self.number)

    @property
    def number(self) -> str:
        return self.message.target.partition("@")[2]

    @property
    def label(self) -> str:
        return f"{self.name}@{self.which}" if self.which else self.name

    @property
    def glyph(self) -> str:
        return glyph_of(self.message.method)

    @property
    def kind(self) -> str:
        """`LoRA + retrieval`."""
        has_search = self.message.info.get("asked", {}).get("collection")
        moved = f", now @{self.number}" if self.which and not self.which.isdigit() else ""
        return label_of(self.message.method) + moved + (" + retrieval" if has_search else "")

    @property
    def error(self) -> Mapping[str, Any] | None:
        return OVERDUE if is_overdue(self.message) else self.message.error

    @property
    def seconds(self) -> float | None:
        """From the first to the last token, the wait before it included."""
        info, usage = self.message.info, self.message.usage
        rate, first = info.get("tokens_per_s"), info.get("first_token_ms")
        if not rate or first is None:
            return None
        return float(first) / 1000 + int(usage.get("completion_tokens", 0)) / float(rate)

    @property
    def judgement(self) -> Any:
        given = list(self.message.feedback.all())
        return given[0] if given else None

    @property
    def no_evidence(self) -> bool:
        """A collection was searched and nothing in it was close enough."""
        searched = self.message.info.get("asked", {}).get("collection")
        return bool(searched) and self.message.state == Message.State.DONE and not self.sources

    @property
    def found(self) -> str | None:
        """The answer that the prompt's rule found in the text; "" for none, None where there is no rule."""
        return (self.message.info["answer"] or "") if "answer" in self.message.info else None

    @property
    def labels_text(self) -> str:
        """`billing 91 %, shipping 6 %, other 2 %`: the likeliest labels of an adapter that answers with one."""
        labels = self.message.info.get("labels") or []
        return ", ".join(f"{found['label']} {100 * found['probability']:.0f} %" for found in labels[:3])

    @property
    def votes_text(self) -> str:
        """`4 of 5 agree; 1 for blue`."""
        votes = self.message.info.get("votes") or []
        n_all = round(votes[0]["n"] / self.message.info["agreement"]) if votes else 0
        others = ", ".join(f"{vote['n']} for {vote['answer']}" for vote in votes[1:4])
        return f"{votes[0]['n']} of {n_all} agree" + (f"; {others}" if others else "") if votes else ""

    @property
    def data(self) -> dict[str, Any]:
        """For the page's modules."""
        figures = {key: self.message.info[key] for key in FIGURES if key in self.message.info}
        return {
            "id": self.pk, "label": self.label, "request": self.message.request_id.hex, "open": self.is_open,
            "sources": self.sources, "tokens": self.message.usage.get("completion_tokens"), **figures,
        }  # fmt: skip

    @property
    def data_id(self) -> str:
        return f"answer-data-{self.pk}"


@dataclass(frozen=True)
class TurnView:
    number: int
    question: Message
    answers: list[AnswerView]

    @property
    def is_open(self) -> bool:
        return any(answer.is_open for answer in self.answers)


def _links(team: Team, names: Iterable[str]) -> dict[str, str]:
    """Page of each target by its bare name."""
    bare = {name.partition("@")[0] for name in names}
    prompts = {name.removeprefix(PROMPT) for name in bare if name.startswith(PROMPT)}
    links = {BASE: _url("models:index")}
    for adapter in Adapter.objects.for_team(team).filter(name__in=bare):
        links[adapter.name] = _url("adapters:detail", adapter.pk)
    for prompt in Prompt.objects.for_team(team).filter(name__in=prompts) if prompts else ():
        links[PROMPT + prompt.name] = _url("prompts:detail", prompt.pk)
    return links


def answer_view(message: Message, links: Mapping[str, str] | None = None) -> AnswerView:
    links = _links(message.team, [message.target]) if links is None else links
    sources = [source_of(citation) for citation in message.citations.all()]
    is_written = message.state not in OPEN and message.content
    html = render_answer(message.content, {s["n"] for s in sources}) if is_written else ""
    return AnswerView(message, html, sources, links.get(message.target.partition("@")[0], ""))


def turn_views(conversation: Conversation, turns: Sequence[Turn]) -> list[TurnView]:
    links = _links(conversation.team, {answer.target for turn in turns for answer in turn.answers})
    return [TurnView(t.number, t.question, [answer_view(a, links) for a in t.answers]) for t in turns]
