// A trial's answers, all on one connection. A connection taken up again begins anew, so the texts are cleared then.
let source = null;

const part = (trial, kind, place) => trial.querySelector(`[data-${kind}="${place}"]`);

function note(cell, text, kind = "cf-soft") {
  const span = document.createElement("span");
  span.className = kind;
  span.textContent = text;
  cell.replaceChildren(span);
}

function finish(trial, event) {
  const cell = part(trial, "answer", event.i);
  const whole = cell.dataset.text ?? "";
  const answer = document.createElement("b");
  answer.className = event.is_right === undefined ? "" : event.is_right ? "cf-ok" : "cf-no";
  answer.textContent = event.answer ?? "no answer found";
  cell.replaceChildren(answer);
  if (event.is_right !== undefined) cell.append(event.is_right ? " ✓" : ", wrong");
  if (event.votes) cell.append(` · ${Math.round(100 * event.agreement)} % agree`);
  if (whole.trim() && whole.trim() !== (event.answer ?? "").trim()) {
    const details = document.createElement("details");
    const summary = document.createElement("summary");
    const said = document.createElement("p");
    summary.textContent = "all it wrote";
    said.className = "cf-wrap-any cf-soft";
    said.textContent = whole.trim();
    details.append(summary, said);
    cell.append(details);
  }
  const usage = event.usage ?? {};
  part(trial, "figures", event.i).textContent = `${usage.prompt_tokens ?? 0} + ${usage.completion_tokens ?? 0} tok`;
}

/** Tells whether the rows shared steps of the batch. */
function shared(trial, done) {
  const line = trial.parentElement.querySelector("[data-shared]");
  const spans = done.filter((event) => event.last_step);
  if (!line || spans.length < 2) return;
  const first = Math.max(...spans.map((event) => event.first_step));
  const last = Math.min(...spans.map((event) => event.last_step));
  if (last >= first) line.textContent = `All ${spans.length} rows were in the batch together from step ${first} to ${last}.`;
}

export function joinTrial(root) {
  source?.close();
  source = null;
  const trial = root.querySelector("[data-trial]");
  if (!trial) return;
  const done = [];
  source = new EventSource(trial.dataset.trial);
  const on = (name, act) => source.addEventListener(name, (message) => act(JSON.parse(message.data)));
  source.addEventListener("open", () => { done.length = 0; trial.querySelectorAll("[data-answer]").forEach((cell) => { cell.dataset.text = ""; }); });
  on("token", (event) => {
    const cell = part(trial, "answer", event.i);
    cell.dataset.text = (cell.dataset.text ?? "") + event.text;
    if (event.text) cell.textContent = cell.dataset.text;
  });
  on("chain", (event) => note(part(trial, "answer", event.i), `${event.done} of ${event.of} texts written`));
  on("failed", (event) => note(part(trial, "answer", event.i), event.message, "cf-no"));
  on("done", (event) => { done.push(event); finish(trial, event); });
  on("over", () => { source?.close(); shared(trial, done); });
}
