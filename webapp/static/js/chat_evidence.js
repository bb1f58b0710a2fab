// Sources of answers: chips with hover cards, the evidence drawer, the data that each column carries.
const drawer = document.getElementById("evidence");
const list = drawer.querySelector("[data-evidence-list]");
const none = drawer.querySelector("[data-evidence-none]");
const line = drawer.querySelector("[data-evidence-line]");
const opener = document.querySelector("[data-evidence-count]");
const card = document.querySelector(".cf-hover");
const kept = new WeakMap();
let shown = null;

/** What the server said about an answer (and the stream since). */
export function dataOf(article) {
  if (!kept.has(article)) {
    const script = article.querySelector("script[type='application/json']");
    if (!script) return null;
    kept.set(article, JSON.parse(script.textContent));
  }
  return kept.get(article);
}
export const keepData = (article, data) => { kept.set(article, data); };

function element(name, className, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

const about = (s) => [s.page ? `page ${s.page}` : "", typeof s.score === "number" ? `score ${s.score.toFixed(2)}` : ""].filter(Boolean).join(" · ");

function head(source) {
  const header = element("header");
  const row = element("div", "cf-row");
  const number = element("span", "cf-cite", source.n);
  number.setAttribute("aria-hidden", "true");
  row.append(number, element("b", "", source.title));
  header.append(row, element("span", "cf-cap", about(source)));
  return header;
}

function passage(source) {
  const article = element("article", "cf-evidence");
  article.dataset.n = source.n;
  article.tabIndex = -1;
  const quote = element("blockquote");
  quote.append(element(source.cited ? "mark" : "span", "", source.text));
  article.append(head(source), quote);
  if (source.url) {
    const link = element("a", "", "Open the document at this passage");
    link.href = source.url;
    article.append(link);
  }
  return article;
}

function showEvidence(data) {
  shown = data.id;
  list.replaceChildren(...data.sources.map(passage));
  none.hidden = data.sources.length > 0;
  const cited = data.sources.filter((s) => s.cited).length;
  const many = `${data.sources.length} passage${data.sources.length === 1 ? "" : "s"}`;
  line.textContent = data.sources.length ? (data.open ? `${many} read` : `${cited} of ${many} cited`) : "";
  if (opener) opener.hidden = !data.sources.length;
}

/** The first of these answers that was given something to read, unless one of them is shown already. */
export function showEvidenceOf(answers) {
  const first = answers.find((a) => a.id === shown && a.sources.length) ?? answers.find((a) => a.sources.length);
  if (first) showEvidence(first);
}

function sourceAt(cite) {
  const data = dataOf(cite.closest(".cf-answer"));
  return { data, source: data?.sources.find((s) => s.n === Number(cite.dataset.n)) };
}

function hover(cite) {
  const { source } = sourceAt(cite);
  if (!source) return;
  const excerpt = source.text.length > 260 ? `${source.text.slice(0, 260)}…` : source.text;
  card.replaceChildren(head(source), element("span", "", excerpt));
  card.hidden = false;
  const at = cite.getBoundingClientRect();
  const left = Math.min(Math.max(12, at.left - 24), innerWidth - card.offsetWidth - 12);
  const above = at.top - card.offsetHeight - 8;
  card.style.setProperty("left", `${left}px`);
  card.style.setProperty("top", `${above > 60 ? above : at.bottom + 8}px`);
}

function select(cite, openDrawer) {
  const { data } = sourceAt(cite);
  if (!data) return;
  card.hidden = true;
  if (shown !== data.id) showEvidence(data);
  document.querySelectorAll(".cf-cite[aria-pressed='true']").forEach((c) => c.setAttribute("aria-pressed", "false"));
  cite.setAttribute("aria-pressed", "true");
  openDrawer();
  list.querySelectorAll(".cf-evidence").forEach((passageNode) => {
    const on = passageNode.dataset.n === cite.dataset.n;
    passageNode.toggleAttribute("aria-current", on);
    if (on) { passageNode.setAttribute("aria-current", "true"); passageNode.scrollIntoView({ block: "nearest" }); }
  });
}

export function wireEvidence(turns, openDrawer) {
  const cite = (event) => event.target.closest?.("button.cf-cite");
  turns.addEventListener("pointerover", (event) => { if (cite(event)) hover(cite(event)); });
  turns.addEventListener("focusin", (event) => { if (cite(event)) hover(cite(event)); });
  for (const name of ["pointerout", "focusout"]) turns.addEventListener(name, (event) => { if (cite(event)) card.hidden = true; });
  turns.addEventListener("click", (event) => { if (cite(event)) select(cite(event), openDrawer); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") card.hidden = true; });
}
