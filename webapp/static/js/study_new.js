// The cards are in sight only when techniques are chosen one by one; what the base model or the data set cannot have is
// greyed out with the reason; the metric follows the kind of data. A choice that was made is never changed but one: a
// metric that the data cannot have gives way to the first that fits.
const form = document.getElementById("form");

function kindOf(task) { return task === "classification" ? "classification" : "generation"; }

function fitMetric(task) {
  const metric = form.querySelector("[name=metric]");
  for (const option of metric.options) {
    option.hidden = option.disabled = option.dataset.kind !== kindOf(task);
  }
  if (metric.selectedOptions[0]?.disabled) {
    const preferred = ["accuracy", "token_f1"].map((name) => metric.querySelector(`[value="${name}"]:not(:disabled)`)).find(Boolean);
    (preferred ?? metric.querySelector("option:not(:disabled)")).selected = true;
  }
}

function fitCards(reasons, family, task, collection) {
  const against = reasons[`${family}/${task}/${collection ? "y" : "n"}`] ?? {};
  for (const box of form.querySelectorAll("[name=techniques]")) {
    const reason = against[box.value] ?? "";
    const said = box.parentElement.querySelector(".cf-techno");
    box.disabled = reason !== "" && !box.checked;
    said.textContent = reason;
    said.hidden = reason === "";
  }
}

if (form) {
  const reasons = JSON.parse(document.getElementById("reasons").textContent);
  const cards = document.getElementById("cards");
  const fit = () => {
    const task = form.querySelector("[name=dataset_version]").selectedOptions[0]?.dataset.task ?? "";
    const family = form.querySelector("[name=base]").selectedOptions[0]?.dataset.family ?? "";
    fitMetric(task);
    fitCards(reasons, family, task, form.querySelector("[name=collection]")?.value);
  };
  const fold = () => { cards.hidden = form.querySelector("[name=which]:checked")?.value !== "chosen"; };
  form.addEventListener("change", (event) => {
    if (event.target.name === "which") fold();
    if (["base", "collection", "dataset_version"].includes(event.target.name)) fit();
  }, true); // before htmx sends what is typed
  fit(); // the browser may have restored another choice on going back
  fold();
}
