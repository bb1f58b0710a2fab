// Bringing a file with progress, and the mapping page: marked templates, inserted columns, split counts, preview rows.
// Everything here only helps: without it the forms post as they are.
const all = (selector, node = document) => [...node.querySelectorAll(selector)];
const json = (id) => JSON.parse(document.getElementById(id)?.textContent ?? "null");
const number = new Intl.NumberFormat("en-GB");
const megabytes = (n) => `${(n / 1e6).toLocaleString("en-GB", { maximumFractionDigits: 1 })} MB`;

// 1. A file comes in --------------------------------------------------------------------------------------------
const form = document.getElementById("bring");
if (form) {
  const input = form.elements.file;
  const refused = document.getElementById("refused");
  const text = (id, words) => { document.getElementById(id).textContent = words; };

  const refuse = (message, hint) => {
    const box = document.createElement("div");
    box.className = "cf-problem";
    box.setAttribute("role", "alert");
    const bold = document.createElement("b");
    bold.textContent = message;
    const more = document.createElement("p");
    more.textContent = hint ?? "";
    box.append(bold, more);
    refused.replaceChildren(box);
    document.getElementById("sending").hidden = true;
    document.getElementById("bring-it").disabled = false;
  };

  const choose = () => {
    const file = input.files[0];
    if (!file) return;
    refused.replaceChildren();
    text("chosen", file.name);
    text("chosen-size", file.size < 1e6 ? `${number.format(Math.ceil(file.size / 1e3))} kB` : megabytes(file.size));
    document.getElementById("drop").classList.add("cf-drop-has");
    const limit = Number(form.dataset.limit);
    if (file.size > limit) refuse(`${file.name} has ${megabytes(file.size)}; uploads may have ${megabytes(limit)}.`, "Cut it into several files.");
    else if (!file.size) refuse(`${file.name} is empty (0 bytes).`, "Choose a file with rows.");
  };
  input.addEventListener("change", choose);

  const send = () => {
    const request = new XMLHttpRequest();
    request.open("POST", form.action);
    request.setRequestHeader("Accept", "application/json");
    request.upload.addEventListener("progress", (event) => {
      if (!event.lengthComputable) return;
      document.getElementById("sent").value = (100 * event.loaded) / event.total;
      text("sent-text", event.loaded < event.total ? `${megabytes(event.loaded)} of ${megabytes(event.total)} sent` : "Sent. It is being stored …");
    });
    request.addEventListener("load", () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* an error page of something in between */ }
      if (request.status < 300 && answer.url) location.assign(answer.url);
      else refuse(answer.error?.message ?? `The server refused the file (${request.status}).`);
    });
    request.addEventListener("error", () => refuse("The connection broke while the file was being sent.", "Nothing was kept. Try again."));
    request.send(new FormData(form));
    document.getElementById("sending").hidden = false;
    document.getElementById("bring-it").disabled = true;
  };
  form.addEventListener("submit", (event) => {
    const isPaste = !form.querySelector("[data-show=paste]").hidden;
    if (isPaste) { input.value = ""; return; }
    form.elements.pasted.value = "";
    event.preventDefault();
    if (!input.files.length) return refuse("No file was chosen.", "Choose a file, or paste some rows.");
    if (input.files[0].size > Number(form.dataset.limit) || !input.files[0].size) return choose();
    refused.replaceChildren();
    send();
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    if (!event.dataTransfer.files.length) return;
    form.querySelector("[data-toggle=src][value=file]").click();
    input.files = event.dataTransfer.files;
    choose();
  });
}

// 2. Columns ----------------------------------------------------------------------------------------------------
const mapping = document.getElementById("mapping");
if (mapping) {
  const columns = json("columns") ?? [];
  const SLOT = /\{\{|\}\}|\{([^{}\n]{1,80})\}/g;
  const slots = (template) => [...template.matchAll(SLOT)].map((m) => m[1]).filter(Boolean);
  const fields = ["prompt", "completion"].map((name) => mapping.elements[name]);
  let typed = fields[0];

  const paint = (area) => {
    const mirror = area.previousElementSibling;
    const parts = [];
    let last = 0;
    for (const m of area.value.matchAll(SLOT)) {
      if (!m[1]) continue;
      const mark = document.createElement("span");
      mark.className = `cf-slot${columns.includes(m[1]) ? "" : " cf-slot-bad"}${area.name === "completion" ? " cf-slot-out" : ""}`;
      mark.textContent = m[0];
      parts.push(area.value.slice(last, m.index), mark);
      last = m.index + m[0].length;
    }
    mirror.replaceChildren(...parts, area.value.slice(last), "\n");
    const unknown = slots(area.value).find((name) => !columns.includes(name));
    const error = area.closest("div:not(.cf-tpl)").querySelector("[data-unknown]");
    error.hidden = !unknown;
    error.textContent = unknown ? `There is no column {${unknown}}.` : "";
    area.setAttribute("aria-invalid", String(Boolean(unknown)));
  };

  const sayRoles = () => {
    const read = slots(fields[0].value);
    const learnt = [...slots(fields[1].value), fields[1].value.trim()];
    const format = mapping.elements.format.value;
    const isColumns = format === "columns";
    const split = mapping.elements.split.value === "column" ? mapping.elements.split_column.value : "";
    for (const tag of all("[data-role-of]", mapping)) {
      const name = tag.dataset.roleOf;
      const role = isColumns && read.includes(name) ? "read" : isColumns && learnt.includes(name) ? "learnt" : name === split ? "split" : isColumns ? "left out" : ["messages", "sharegpt", "text"].includes(format) ? (name === mapping.elements.column.value ? (format === "text" ? "learnt" : "conversation") : "left out") : "as named";
      tag.textContent = role;
      tag.className = `cf-tag${role === "read" ? " cf-tag-frozen" : role === "learnt" ? " cf-tag-grown" : ""}`;
    }
    all("[data-only-columns]", mapping).forEach((node) => { node.hidden = !isColumns; });
    all("[data-only-turns]", mapping).forEach((node) => { node.hidden = isColumns; });
  };

  const system = mapping.elements.system;
  const mirrorSystem = () => { system.previousElementSibling.textContent = `${system.value}\n`; };
  system.addEventListener("input", mirrorSystem);
  mirrorSystem();
  for (const area of fields) {
    area.addEventListener("input", () => { paint(area); sayRoles(); });
    area.addEventListener("focus", () => { typed = area; });
    paint(area);
  }
  for (const button of all("[data-insert]", mapping)) {
    button.addEventListener("click", () => {
      typed.setRangeText(`{${button.dataset.insert}}`, typed.selectionStart, typed.selectionEnd, "end");
      typed.dispatchEvent(new Event("input", { bubbles: true }));
      typed.focus();
    });
  }

  // 3. Splits: what the shares come to in rows.
  const box = mapping.querySelector("[data-splits]");
  const sayShares = () => {
    const kind = mapping.elements.split.value;
    all("[data-only-split]", mapping).forEach((node) => { node.hidden = !node.dataset.onlySplit.split(" ").includes(kind); });
    const rows = Number(box.dataset.splits);
    const held = ["validation", "test"].map((name) => Math.max(0, Math.min(90, Number(mapping.elements[name].value) || 0)));
    const shares = [Math.max(0, 100 - held[0] - held[1]), ...held];
    let x = 0;
    all("[data-split-bar] rect", mapping).forEach((rect, i) => {
      rect.setAttribute("x", `${x}%`);
      rect.setAttribute("width", `${Math.max(0, shares[i] - 0.8)}%`);
      x += shares[i];
    });
    const counts = held.map((share) => Math.round((rows * share) / 100));
    const words = [rows - counts[0] - counts[1], ...counts].map((n) => `about ${number.format(Math.max(0, n))}`);
    ["train", "validation", "test"].forEach((name, i) => { mapping.querySelector(`[data-split-n=${name}]`).textContent = words[i]; });
  };

  // 4. The name: a new data set, or the next version of one.
  const numbers = json("numbers") ?? {};
  const sayName = () => {
    const name = mapping.elements.name.value.trim();
    document.getElementById("name-says").textContent = name in numbers ? `exists; becomes ${name}@${numbers[name]}, older versions stay as they are` : name ? `new; becomes ${name}@1` : "";
  };
  mapping.addEventListener("input", () => { sayRoles(); sayShares(); sayName(); });
  sayRoles(); sayShares(); sayName();

  // 5. Rows of the preview, one at a time.
  document.addEventListener("click", (event) => {
    const step = Number(event.target.closest("[data-preview-step]")?.dataset.previewStep);
    if (!step) return;
    const rows = all("[data-preview-row]");
    const now = rows.findIndex((row) => !row.hidden);
    const next = (now + step + rows.length) % rows.length;
    rows.forEach((row, i) => { row.hidden = i !== next; });
    document.querySelector("[data-preview-name]").textContent = rows[next].dataset.name;
  });
}
