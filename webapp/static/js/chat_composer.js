// The box: keys, chips of targets and their picker, sampling, folding on a phone.
const template = document.getElementById("chip-template");

const WORDS = ["nothing", "it", "both", "all three", "all four", "all five", "all six", "all seven", "all eight"];

function placeholder(form) {
  const n = form.querySelectorAll("[data-chip]").length;
  form.elements.text.placeholder = n > 1 ? `Ask ${WORDS[n] ?? "them all"}` : "Ask a question";
}

function add(form, pick) {
  const name = pick.dataset.pick;
  const chips = [...form.querySelectorAll("[data-chip]")];
  if (chips.some((c) => c.dataset.chip === name) || chips.length >= 8) return;
  const chip = template.content.firstElementChild.cloneNode(true);
  const label = pick.querySelector("b").textContent;
  chip.dataset.chip = name;
  chip.classList.toggle("cf-target-frozen", pick.hasAttribute("data-frozen"));
  chip.querySelector("svg").replaceWith(pick.querySelector("svg").cloneNode(true));
  chip.querySelector(":scope > span").textContent = label.replace(/^prompt:/, "");
  chip.querySelector("input").value = name;
  chip.querySelector("button").setAttribute("aria-label", `Remove ${label}`);
  form.querySelector("[data-chips]").append(chip);
  sync(form);
}

function sync(form) {
  const chosen = new Set([...form.querySelectorAll("[data-chip]")].map((c) => c.dataset.chip));
  form.querySelectorAll("[data-pick]").forEach((pick) => pick.setAttribute("aria-pressed", String(chosen.has(pick.dataset.pick))));
  placeholder(form);
}

function wirePicker(form) {
  const filter = form.querySelector("#picker-filter");
  const picker = form.querySelector("#picker");
  const none = form.querySelector("[data-pick-none]");
  picker.addEventListener("toggle", () => { if (picker.open) { filter.value = ""; narrow(); filter.focus(); } });
  const narrow = () => {
    const wanted = filter.value.trim().toLowerCase();
    let n = 0;
    form.querySelectorAll("[data-pick]").forEach((pick) => {
      pick.hidden = !pick.textContent.toLowerCase().includes(wanted);
      n += !pick.hidden;
    });
    none.hidden = n > 0;
  };
  filter.addEventListener("input", narrow);
  filter.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    form.querySelector("[data-pick]:not([hidden])")?.click();
  });
  form.addEventListener("click", (event) => {
    const pick = event.target.closest("[data-pick]");
    if (pick?.getAttribute("aria-pressed") === "true") form.querySelector(`[data-chip="${CSS.escape(pick.dataset.pick)}"]`)?.remove();
    else if (pick) add(form, pick);
    const remove = event.target.closest("[data-chip-remove]");
    if (remove) remove.closest("[data-chip]").remove();
    if (pick || remove) sync(form);
  });
}

export function wireComposer(form, send) {
  const box = form.elements.text;
  form.addEventListener("submit", (event) => { event.preventDefault(); if (box.value.trim()) send(form); else box.focus(); });
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
  });
  form.elements.temperature.addEventListener("input", () => { form.querySelector("[data-sampling]").textContent = form.elements.temperature.value; });
  const fold = form.querySelector("[data-fold]");
  const unfold = (isOpen) => { form.classList.toggle("is-open", isOpen); fold.setAttribute("aria-expanded", String(isOpen)); };
  fold.addEventListener("click", () => unfold(fold.getAttribute("aria-expanded") !== "true"));
  form.addEventListener("cf:unfold", () => unfold(true));
  form.addEventListener("cf:sent", () => unfold(false));
  wirePicker(form);
  sync(form);
  if (!("ontouchstart" in window)) box.focus({ preventScroll: true });
}
