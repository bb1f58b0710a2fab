// The chat page: sending questions, joining the streams of open answers, buttons of answers, sheets on narrow screens.
import { wireComposer } from "./chat_composer.js";
import { showEvidenceOf, wireEvidence, dataOf } from "./chat_evidence.js";
import { showBatch } from "./chat_batch.js";
import { showContext } from "./chat_context.js";
import { joinTurn } from "./chat_stream.js";

const chat = document.getElementById("chat");
const turns = document.getElementById("turns");
const composer = document.getElementById("composer");
const PART = { "X-Part": "1" };

const toEnd = () => { turns.scrollTop = turns.scrollHeight; window.scrollTo({ top: document.body.scrollHeight }); };
// A reader at the end stays there while answers grow; one who has scrolled up is left alone.
let isAtEnd = true;
turns.addEventListener("scroll", () => { isAtEnd = turns.scrollHeight - turns.scrollTop - turns.clientHeight < 80; }, { passive: true });
new MutationObserver(() => { if (isAtEnd && turns.querySelector("[aria-busy]")) turns.scrollTop = turns.scrollHeight; })
  .observe(turns, { childList: true, subtree: true });
const lastTurn = () => [...turns.querySelectorAll(".cf-turn")].pop();

function fragment(html) {
  const holder = document.createElement("template");
  holder.innerHTML = html; // Our own server's escaped fragment; a model's text is never put in as markup here.
  return holder.content;
}

const answersOf = (turn) => [...turn.querySelectorAll(".cf-answer")].map(dataOf).filter(Boolean);

function showFigures(turn) {
  const answers = answersOf(turn);
  showBatch(turn, answers);
  showContext(answers, Number(chat.dataset.length));
}

/** Batch, context and evidence follow the turn that was last touched. */
function focusTurn(turn) {
  if (!turn) return;
  showFigures(turn);
  showEvidenceOf(answersOf(turn));
}

function open(turn) { if (turn?.hasAttribute("data-open")) joinTurn(turn, { refresh, showFigures, showEvidenceOf }); }

/** The answer's column as the server has it now. */
async function refresh(article, url = article.dataset.url) {
  const response = await fetch(url, { headers: PART });
  if (!response.ok) return;
  const next = columnOf(await response.text());
  if (!next) return;
  replace(article, next);
  // The stream has ended, but the answer's row not yet: look again.
  if (next.hasAttribute("aria-busy")) setTimeout(() => rejoin(next.closest(".cf-turn")), 2000);
}

const columnOf = (html) => fragment(html).querySelector(".cf-answer");

function rejoin(turn) {
  if (!turn) return;
  turn.setAttribute("data-open", "");
  open(turn);
}

function replace(article, next) {
  const turn = article.closest(".cf-turn");
  article.replaceWith(next);
  focusTurn(turn);
}

async function send(form) {
  const problem = document.getElementById("ask-problem");
  const button = form.querySelector("[type=submit]");
  button.disabled = true;
  try {
    const response = await fetch(form.action, { method: "POST", body: new FormData(form), headers: PART });
    if (response.status === 201) { location.assign(response.headers.get("Location")); return; }
    const part = fragment(await response.text());
    if (!response.ok) {
      problem.replaceChildren(part.querySelector(".cf-problem") ?? document.createTextNode("The question could not be sent. It is still in the box."));
      return;
    }
    problem.replaceChildren();
    turns.append(part);
    form.elements.text.value = "";
    form.dispatchEvent(new CustomEvent("cf:sent"));
    toEnd();
    focusTurn(lastTurn());
    open(lastTurn());
    window.htmx?.trigger("#engine-note", "engine-check");
  } catch {
    problem.replaceChildren(document.createTextNode("The server does not answer. Your question is still in the box."));
  } finally {
    button.disabled = false;
  }
}

async function press(form) {
  const article = form.closest(".cf-answer");
  const response = await fetch(form.action, { method: "POST", body: new FormData(form), headers: PART });
  const html = await response.text();
  if (!response.ok) { article.querySelector(".cf-said").append(fragment(html).querySelector(".cf-problem") ?? ""); return; }
  const next = columnOf(html);
  if (!next) return;
  const isAgain = form.hasAttribute("data-again");
  if (next.hasAttribute("aria-busy") && !isAgain) {
    // Stop was asked for and the engine is still at it: the stream brings the end.
    form.querySelector("button").disabled = true;
    return;
  }
  replace(article, next);
  if (isAgain) rejoin(next.closest(".cf-turn"));
}

turns.addEventListener("submit", (event) => {
  if (event.target.matches("[data-part]")) { event.preventDefault(); press(event.target); }
});

turns.addEventListener("click", (event) => {
  const article = event.target.closest(".cf-answer");
  if (event.target.closest("[data-open-picker]")) { composer.dispatchEvent(new CustomEvent("cf:unfold")); setTimeout(() => { document.getElementById("picker").open = true; }); }
  const edit = event.target.closest("[data-edit]");
  if (edit) { composer.elements.text.value = edit.parentElement.querySelector(".cf-ask-text").textContent; composer.elements.text.focus(); }
  if (!article) return;
  const correct = article.querySelector("[data-correct]");
  if (event.target.closest("[data-correct-open]")) { correct.hidden = !correct.hidden; if (!correct.hidden) { correct.querySelector("textarea").focus(); correct.scrollIntoView({ block: "nearest" }); } }
  if (event.target.closest("[data-correct-close]")) correct.hidden = true;
  const copy = event.target.closest("[data-copy-answer]");
  if (copy) {
    navigator.clipboard?.writeText(article.querySelector("[data-text]").innerText);
    copy.setAttribute("aria-label", "Copied");
    setTimeout(() => copy.setAttribute("aria-label", "Copy"), 1500);
  }
  if (article.contains(event.target)) focusTurnOnce(article.closest(".cf-turn"));
});

let focused = null;
function focusTurnOnce(turn) { if (turn !== focused) { focused = turn; focusTurn(turn); } }

// Sheets: on narrow screens the conversation list and the evidence lie over the thread, with a way back.
function sheet(name, isOpen) {
  for (const other of ["convs", "evidence"]) {
    const on = isOpen && other === name;
    chat.classList.toggle(`cf-${other}-open`, on);
    document.querySelector(`[data-sheet="${other}"]`)?.setAttribute("aria-expanded", String(on));
  }
  if (isOpen) document.querySelector(`#${name} [data-sheet-close]`)?.focus();
}
document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-sheet]");
  if (opener) sheet(opener.dataset.sheet, opener.getAttribute("aria-expanded") !== "true");
  if (event.target.closest("[data-sheet-close]")) sheet("", false);
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") sheet("", false); });

wireComposer(composer, send);
wireEvidence(turns, () => sheet("evidence", matchMedia("(max-width: 960px)").matches));
document.querySelectorAll(".cf-turn[data-open]").forEach(open);
focusTurn(lastTurn());
toEnd();
