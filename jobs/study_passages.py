"""`python -m jobs.study_passages --workdir DIR`: finds the passages of a study's test rows, then becomes the study.

DIR/passages holds about.json (whose collection, how it is searched) and questions.jsonl; DIR/command.json is the
study's command line. Engines are asked, as for chat, with what jobs/asking.py guarantees: kept at once, gone on with
after a stop, waited for. Output: DIR/passages.json (ml/study/passages.py). The study gets no address of Redis. Where
the collection is deleted meanwhile the study begins without passages: its retrieval then says so, the rest is measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import asking, stream
from jobs.asking import STOPPED, Emit, Stopped
from jobs.asking_main import run_asking
from jobs.child import child_env
from ml.errors import NotFoundError
from ml.events import release_stdout
from ml.specs.questions import question_of
from ml.specs.study import TECHNIQUES
from ml.study.passages import passages_file

if TYPE_CHECKING:
    from webapp.models import Study

FILE, COMMAND = "passages.json", "command.json"
SEARCH_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Question:
    """A line of questions.jsonl."""

    place: int
    query: str


def with_passages(study: Study, spec: Mapping[str, Any], folder: Path, words: Sequence[str]) -> list[str]:
    """The command line of a study that may search a collection: `words`, with what was found at first, or behind this
    module, which finds it. A study stays on what it has found."""
    from webapp import storage

    (folder / COMMAND).unlink(missing_ok=True)
    if not any(TECHNIQUES[name].needs_collection for name in spec["techniques"]):
        return list(words)
    before = storage.path_of(study.storage_key) / FILE if study.is_done else folder / FILE
    known = next((path for path in (folder / FILE, before) if path.is_file()), None)
    if known is not None:
        return [*words, "--passages", str(known)]
    if study.collection is None:
        return list(words)
    _write_questions(study, spec, folder / "passages")
    _put(folder / COMMAND, {"words": list(words)})
    return [sys.executable, "-m", "jobs.study_passages", "--workdir", str(folder)]


def is_to_search(folder: Path) -> bool:
    """Whether the command line that was made last is this module's."""
    return (folder / COMMAND).is_file()


def _write_questions(study: Study, spec: Mapping[str, Any], folder: Path) -> None:
    from webapp.selectors.dataset_rows import rows_of

    version, collection = study.dataset_version, study.collection
    folder.mkdir(exist_ok=True)
    rows = islice(rows_of(version, "test"), int(spec["test_rows"]))
    asked = dict.fromkeys(question_of(version.mapping or {}, row["messages"][-1]["content"]) for row in rows)
    questions = [Question(place=place, query=query) for place, query in enumerate(asked)]
    text = "".join(json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in questions)
    (folder / "questions.jsonl").write_text(text, encoding="utf-8")
    _put(folder / "about.json", {
        "team_id": collection.team_id, "collection_id": collection.pk, "collection": collection.name,
        "top_k": collection.top_k, "threshold": collection.threshold, "embedder": collection.embedder,
        "refusal": collection.refusal,
    })  # fmt: skip


def _put(path: Path, value: Mapping[str, Any]) -> None:
    draft = path.with_name(f".{path.name}")
    draft.write_text(json.dumps(value, ensure_ascii=False, sort_keys=True), encoding="utf-8")
    draft.replace(path)


class Searching(asking.Asking[Question]):
    """All questions of one study."""

    def __init__(self, folder: Path, emit: Emit) -> None:
        with (folder / "questions.jsonl").open(encoding="utf-8") as file:
            questions = [Question(**json.loads(line)) for line in file]
        super().__init__(folder, questions, emit)
        self.about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.does = f"Searching the collection {self.about['collection']}"

    async def answer(self, item: Question) -> dict[str, Any]:
        asked = {"team_id": self.about["team_id"], "collection_id": self.about["collection_id"], "query": item.query,
                 "k": self.about["top_k"], "threshold": self.about["threshold"]}  # fmt: skip
        found = await self.patiently(partial(stream.acall_service, "search", asked, SEARCH_S))
        return {"place": item.place, "query": item.query, "hits": found["hits"]}


def find(workdir: Path, emit: Emit) -> int:
    searching = Searching(workdir / "passages", emit)
    emit("phase", text=searching.does)
    try:
        asyncio.run(searching.run())
    except Stopped:
        emit("stopped", step=0)
        return STOPPED
    except NotFoundError as error:
        emit("warning", text=f"{error.message} Retrieval is not measured.")
        return 0
    found = {line["query"]: line["hits"] for line in searching.kept.values()}
    _put(workdir / FILE, passages_file(searching.about, refusal=searching.about["refusal"], found=found))
    return 0


def find_and_become(workdir: Path, emit: Emit) -> int:
    """Returns only when it was stopped."""
    if code := find(workdir, emit):
        return code
    words = json.loads((workdir / COMMAND).read_text(encoding="utf-8"))["words"]
    words += ["--passages", str(workdir / FILE)] if (workdir / FILE).is_file() else []
    release_stdout()
    os.execve(words[0], words, child_env())  # noqa: S606 - the study's own command, made by with_passages


def main(argv: Sequence[str] | None = None) -> int:
    about, what = __doc__, "the search for passages"
    return run_asking(argv, find_and_become, module="jobs.study_passages", about=about, what=what)


if __name__ == "__main__":
    sys.exit(main())
