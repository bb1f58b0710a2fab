// The prompt editor: marks placeholders while they are typed, adds and removes example pairs, shows what a technique
// needs, and shows a trial's answers as they stream. Without it everything else still works: the server checks.
import { joinTrial } from "./prompt_try.js";

const all = (selector, node = document) => [...node.querySelectorAll(selector)];
const SLOT = /\{\{([A-Za-z_][A-Za-z0-9_]*)\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}/g;
const form = document.querySelector("[data-prompt-form]");
const area = form.querySelector("textarea[data-template]");
const mirror = area.previousElementSibling;
const live = document.getElementById("id_template_live");
const ofData = JSON.parse(document.getElementById("known-placeholders").textContent);
const changed = () => form.dispatchEvent(new Event("change", { bubbles: true }));
const value = (name) => new FormData(form).get(name) ?? "";

function known() {
  const chosen = ofData[value("dataset")];
  if (chosen) return chosen;
  const typed = value("fields_typed").split(",").map((name) => name.trim()).filter(Boolean);
  return typed.length ? typed : ["question"];
}

function paint() {
  const names = known();
  const parts = [];
  const unknown = [];
  let asks = false;
  let last = 0;
  for (const found of area.value.matchAll(SLOT)) {
    if (found[1]) continue;
    const is_known = names.includes(found[2]);
    const mark = document.createElement("span");
    mark.className = is_known ? "cf-slot" : "cf-slot cf-slot-bad";
    mark.textContent = found[0];
    if (!is_known) unknown.push(found[0]);
    asks ||= is_known && found[2] !== "labels";
    parts.push(area.value.slice(last, found.index), mark);
    last = found.index + found[0].length;
  }
  mirror.replaceChildren(...parts, area.value.slice(last), "\n");
  live.hidden = !unknown.length && asks;
  const list = names.map((name) => `{${name}}`).join(", ");
  live.textContent = unknown.length ? `Unknown placeholder ${unknown[0]}. Known here: ${list}.` : `Put {${names[0]}} where the typed text shall stand.`;
  area.setAttribute("aria-invalid", String(!live.hidden));
}

function slots() {
  form.querySelector("[data-slots]").replaceChildren(...known().map((name) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "cf-chip";
    button.dataset.insert = `{${name}}`;
    const code = document.createElement("code");
    code.className = "cf-slot";
    code.textContent = `{${name}}`;
    button.append(code);
    return button;
  }));
}

function insert(text) {
  area.setRangeText(text, area.selectionStart, area.selectionEnd, "end");
  area.focus();
  area.dispatchEvent(new Event("input", { bubbles: true }));
}

const box = form.querySelector("[data-examples]");
const list = () => box.querySelector("[data-pairs]");
const blank = list().lastElementChild.cloneNode(true);
const show = (node, is_shown) => { node.hidden = !is_shown; };

function arrange() {
  const technique = value("technique");
  const pick = technique === "few_shot" ? value("pick") || "fixed" : "fixed";
  const hasData = Boolean(ofData[value("dataset")]);
  box.hidden = technique === "zero_shot";
  box.disabled = box.hidden; // what is hidden is not sent
  all("[data-only]").forEach((node) => show(node, node.dataset.only === technique));
  all("[data-pick]", form).forEach((node) => show(node, node.dataset.pick.split(" ").includes(pick)));
  all("[data-no-data]", form).forEach((node) => show(node, !hasData));
  all("[data-needs-data]").forEach((node) => { node.disabled = !hasData; });
  all("[data-marker]", form).forEach((node) => show(node, value("answer_kind") === "after"));
  slots();
  paint();
}

form.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.insert) insert(button.dataset.insert);
  if (button.dataset.insertLine) { area.selectionStart = area.selectionEnd = area.value.length; insert(`\n${button.dataset.insertLine}`); }
  if ("add" in button.dataset) {
    list().append(blank.cloneNode(true));
    all("textarea", list().lastElementChild).forEach((field) => { field.value = ""; });
    arrange();
    list().lastElementChild.querySelector("textarea").focus();
  }
  if ("remove" in button.dataset) {
    const row = button.closest("li");
    const next = row.nextElementSibling || row.previousElementSibling;
    if (next) row.remove(); else all("textarea", row).forEach((field) => { field.value = ""; });
    (next || row).querySelector("textarea").focus();
    changed();
  }
});
form.addEventListener("change", arrange);
form.addEventListener("input", (event) => { if (event.target === area || event.target.name === "fields_typed") paint(); });
form.addEventListener("htmx:afterSwap", () => { arrange(); changed(); });

const trial = document.getElementById("trial");
const seed = document.querySelector("[data-rows-seed]");
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-other-rows]")) seed.value = String(Number(seed.value) + 1);
  else if (!event.target.closest("[data-try]")) return;
  trial.dispatchEvent(new Event("try"));
});
trial.addEventListener("htmx:afterSwap", () => joinTrial(trial));
arrange();
