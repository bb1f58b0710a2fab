// The chosen technique shows its own settings; those of the others stay as they were typed, only out of sight. What the
// base model or the data set cannot have is greyed out with the reason; a choice that was made is never changed.
const form = document.getElementById("form");

function show() {
  const chosen = form.querySelector("[name=method]:checked")?.value;
  for (const set of form.querySelectorAll("[data-method]")) set.hidden = set.dataset.method !== chosen;
}

function fit(reasons) {
  const base = form.querySelector("[name=base]");
  const task = form.querySelector("[name=dataset_version]").selectedOptions[0]?.dataset.task ?? "";
  const against = (family) => reasons[`${family}/${task}`] ?? { base: "", methods: {} };
  const notes = [...base.options].map((option) => {
    const reason = against(option.dataset.family).base;
    option.disabled = reason !== "" && !option.selected;
    return reason;
  }).filter(Boolean);
  const note = document.getElementById("base-note");
  note.hidden = !notes.length;
  note.querySelector("span").textContent = notes[0] ?? "";
  const { methods } = against(base.selectedOptions[0]?.dataset.family);
  for (const radio of form.querySelectorAll("[name=method]")) {
    const reason = methods[radio.value] ?? "";
    const said = radio.parentElement.querySelector(".cf-techno");
    radio.disabled = reason !== "" && !radio.checked;
    said.textContent = reason;
    said.hidden = reason === "";
  }
}

// A remedy of the memory plan: the inputs that it names get its values, as if they had been typed.
function apply(inputs) {
  let last = null;
  for (const [name, value] of Object.entries(inputs)) {
    const kind = form.querySelector(`[name="${name}"]`)?.type;
    last = form.querySelector(kind === "radio" ? `[name="${name}"][value="${value}"]` : `[name="${name}"]`) ?? last;
    if (kind === "radio" || kind === "checkbox") last.checked = value !== false;
    else if (kind) last.value = value;
  }
  last?.dispatchEvent(new Event("change", { bubbles: true }));
  show();
}

if (form) {
  const reasons = JSON.parse(document.getElementById("reasons").textContent);
  form.addEventListener("change", (event) => {
    if (event.target.name === "method") show();
    if (["method", "base", "dataset_version"].includes(event.target.name)) fit(reasons);
  });
  form.addEventListener("click", (event) => {
    const fix = event.target.closest("[data-inputs]");
    if (fix) apply(JSON.parse(fix.dataset.inputs));
  });
  show(); // the browser may have restored another choice on going back
  fit(reasons);

  // An untouched name follows the data set: support-intents@2 is learned by an adapter called support-intents.
  const data = form.querySelector("[name=dataset_version]");
  const name = form.querySelector("[name=adapter]");
  const suggested = () => data.selectedOptions[0]?.textContent.split("@")[0].trim() ?? "";
  let isOwn = name.value !== "" && name.value !== suggested();
  name.addEventListener("input", () => { isOwn = name.value !== ""; });
  const suggest = () => { if (!isOwn) name.value = suggested(); };
  data.addEventListener("change", suggest);
  suggest();
}
