// One connection a turn, for all its open answers. A lost connection is taken up again by the browser where it was.
import { StreamedText } from "./chat_text.js";
import { addToken, addBatch } from "./chat_batch.js";
import { dataOf, keepData } from "./chat_evidence.js";

const joined = new WeakMap();

class Column {
  constructor(article) {
    this.article = article;
    this.text = new StreamedText(article.querySelector("[data-stream]"));
    this.count = article.querySelector("[data-count]");
    this.data = dataOf(article);
    this.n = 0;
    this.began = 0;
  }

  waiting(engines) {
    if (this.n) return;
    const line = this.article.querySelector("[data-waiting]");
    if (line) line.textContent = engines ? "Waiting for its turn" : "The engine is not running; this waits until it is back";
  }

  token(event) {
    this.began ||= performance.now();
    this.n += (event.ids ?? [0]).length;
    this.text.add(event.text ?? "");
    const seconds = (performance.now() - this.began) / 1000;
    const speed = seconds > 0.5 ? ` · ${(this.n / seconds).toFixed(this.n / seconds < 10 ? 1 : 0)} tok/s` : "";
    if (this.count) this.count.textContent = `${this.n} token${this.n === 1 ? "" : "s"}${speed}`;
    this.data.tokens = this.n;
  }

  chain(event) {
    if (this.count) this.count.textContent = `${event.done} of ${event.of} texts written`;
  }

  sources(list) {
    this.text.known = new Set(list.map((s) => s.n));
    this.data.sources = list;
  }
}

/** Streams the turn's open answers into their columns; `refresh` shows a finished one as the server has kept it. */
export function joinTurn(turn, { refresh, showFigures, showEvidenceOf }) {
  joined.get(turn)?.close();
  const columns = new Map();
  turn.querySelectorAll(".cf-answer[aria-busy]").forEach((article) => columns.set(Number(article.dataset.answer), new Column(article)));
  const source = new EventSource(turn.dataset.events);
  joined.set(turn, source);
  const close = () => { source.close(); turn.removeAttribute("data-open"); };
  const on = (name, act) => source.addEventListener(name, (message) => {
    const event = JSON.parse(message.data);
    act(event, columns.get(event.m));
  });
  let isDue = false;
  const changed = (column) => {
    keepData(column.article, column.data);
    if (isDue) return;
    isDue = true;
    setTimeout(() => { isDue = false; showFigures(turn); }, 250);
  };

  on("queued", (event, column) => column?.waiting(1));
  on("waiting", (event, column) => column?.waiting(event.engines));
  on("sources", (event, column) => { if (column) { column.sources(event.sources); changed(column); showEvidenceOf([column.data]); } });
  on("start", (event, column) => { if (column) { Object.assign(column.data, event, { m: undefined }); changed(column); } });
  on("token", (event, column) => { if (column) { column.token(event); addToken(turn, column.data, event); changed(column); } });
  on("chain", (event, column) => column?.chain(event));
  on("batch", (event) => addBatch(turn, event));
  on("lost", (event, column) => column?.waiting(0));
  on("cut", () => { close(); location.reload(); });
  on("ended", async (event, column) => {
    if (!column) return;
    columns.delete(event.m);
    if (!columns.size) close();
    await refresh(document.getElementById(`answer-${event.m}`) ?? column.article);
  });
  // 204 (nothing to wait for) and refusals end the stream for good: show what is kept.
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED) return;
    close();
    columns.forEach((column) => refresh(column.article));
  });
}
