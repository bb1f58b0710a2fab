// The prompt editor: marks placeholders while they are typed, adds and removes example pairs, shows what a technique
// needs. Without it everything still works: the server checks, and one empty pair is always there.
const all = (selector, node = document) => [...node.querySelectorAll(selector)];
const SLOT = /\{([A-Za-z_][A-Za-z0-9_]*)\}/g;
const form = document.querySelector("[data-prompt-form]");
const area = form.querySelector("textarea[data-template]");
const mirror = area.previousElementSibling;
const live = document.getElementById("id_template_live");
const known = new Set(area.dataset.template.split(" "));
const changed = () => form.dispatchEvent(new Event("change", { bubbles: true }));

function paint() {
  const parts = [];
  const unknown = [];
  let last = 0;
  for (const found of area.value.matchAll(SLOT)) {
    const mark = document.createElement("span");
    mark.className = known.has(found[1]) ? "cf-slot" : "cf-slot cf-slot-bad";
    mark.textContent = found[0];
    if (!known.has(found[1])) unknown.push(found[0]);
    parts.push(area.value.slice(last, found.index), mark);
    last = found.index + found[0].length;
  }
  mirror.replaceChildren(...parts, area.value.slice(last), "\n");
  const missing = !area.value.includes("{question}");
  live.hidden = !unknown.length && !missing;
  live.textContent = unknown.length ? `Unknown placeholder ${unknown[0]}. Known here: {question}.` : "Put {question} where the typed text shall stand.";
  area.setAttribute("aria-invalid", String(!live.hidden));
}

function insert(text) {
  area.setRangeText(text, area.selectionStart, area.selectionEnd, "end");
  area.focus();
  area.dispatchEvent(new Event("input", { bubbles: true }));
}

const box = form.querySelector("[data-examples]");
const list = box.querySelector("[data-pairs]");
const blank = list.lastElementChild.cloneNode(true);

function technique() {
  const value = new FormData(form).get("technique");
  box.hidden = value === "zero_shot";
  box.disabled = box.hidden; // what is hidden is not sent
  all("[data-only]", form).forEach((node) => { node.hidden = node.dataset.only !== value; });
}

form.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.insert) insert(button.dataset.insert);
  if (button.dataset.insertLine) { area.selectionStart = area.selectionEnd = area.value.length; insert(`\n${button.dataset.insertLine}`); }
  if ("add" in button.dataset) {
    list.append(blank.cloneNode(true));
    list.lastElementChild.querySelector("textarea").focus();
  }
  if ("remove" in button.dataset) {
    const row = button.closest("li");
    const next = row.nextElementSibling || row.previousElementSibling;
    if (next) row.remove(); else all("textarea", row).forEach((field) => { field.value = ""; });
    (next || row).querySelector("textarea").focus();
    changed();
  }
});
form.addEventListener("change", technique);
area.addEventListener("input", paint);
technique();
paint();
