// The chosen technique shows its own settings; those of the others stay as they were typed, only out of sight.
const form = document.getElementById("form");

function show() {
  const chosen = form.querySelector("[name=method]:checked")?.value;
  for (const set of form.querySelectorAll("[data-method]")) set.hidden = set.dataset.method !== chosen;
}

if (form) {
  form.querySelector("#techniques").addEventListener("change", show);
  show(); // the browser may have restored another choice on going back

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
