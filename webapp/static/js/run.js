// Keeps a run's page up to date: curves as numbers, panels as HTML from the server. All state is in the database, so a
// refresh, a second window or a restarted server show the same.
const data = JSON.parse(document.getElementById("run-data").textContent);
const box = (id) => document.getElementById(id);
const EVERY_MS = 1500;
let scale = "linear";

const rollingMean = (values, n = 20) => values.map((_, i) => {
  const seen = values.slice(Math.max(0, i - n + 1), i + 1).filter((v) => v != null);
  return seen.length ? seen.reduce((a, b) => a + b, 0) / seen.length : null;
});

// Two curves over different steps, on one axis: gaps become null.
function merged(steps, others) {
  const all = [...new Set([...steps, ...others])].sort((a, b) => a - b);
  const on = (own, values) => { const at = new Map(own.map((s, i) => [s, values[i]])); return all.map((s) => at.get(s) ?? null); };
  return { all, on };
}

function specs() {
  const { curves, evals, n_steps: nSteps } = data;
  const xrange = [0, nSteps || Math.max(1, ...curves.step)];
  const { all, on } = merged(curves.step, evals.step);
  const loss = { kind: "lines", x: "step", xrange, height: 250, log: scale === "log", steps: all, series: [
    { label: "train, each step", values: on(curves.step, curves.loss), faint: true, color: 1 },
    { label: "train, mean of 20", values: on(curves.step, rollingMean(curves.loss)), color: 1 },
  ] };
  if (evals.loss.some((v) => v != null)) loss.series.push({ label: "validation", values: on(evals.step, evals.loss), color: 2, points: true });
  const share = (v) => (v == null ? null : 100 * v);
  const evalSteps = evals.step.length ? evals.step : xrange;
  const own = evals.step.length ? evals.value.map(share) : [null, null];
  const score = { kind: "lines", x: "step", xrange, yrange: [0, 100], height: 190, steps: evalSteps, series: [
    { label: "this run", values: own, points: true, digits: 1, unit: " %" },
  ] };
  if (evals.plain != null) {
    // The baseline reaches from edge to edge, also while there is one evaluation only.
    const line = merged(evalSteps, xrange);
    score.steps = line.all;
    score.series = [
      { ...score.series[0], values: line.on(evalSteps, own) },
      { label: "untouched model", values: line.all.map(() => share(evals.plain)), color: 2, dash: [5, 4], digits: 1, unit: " %" },
    ];
  }
  const lr = { kind: "lines", x: "step", xrange, isTiny: true, height: 190, steps: curves.step, series: [
    { label: "learning rate", values: curves.learning_rate, color: 3, digits: 6 },
    { label: "gradient norm", values: curves.grad_norm, color: 4, scale: "y2", faint: true },
  ] };
  return { "chart-loss": loss, "chart-eval": score, "chart-lr": lr };
}

function write() {
  for (const [id, spec] of Object.entries(specs())) box(id).textContent = JSON.stringify(spec);
}

function append(curves) {
  const known = new Set(data.curves.step);
  curves.step.forEach((step, i) => {
    if (known.has(step)) return;
    for (const key of Object.keys(curves)) data.curves[key].push(curves[key][i]);
  });
}

const hasCharts = document.querySelector("[data-chart]") !== null;
let update = () => {};
if (hasCharts) {
  write();
  ({ update } = await import("./charts.js"));
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-scale]");
    if (!button) return;
    scale = button.dataset.scale;
    button.parentElement.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
    write();
    update("chart-loss", { isWhole: true });
  });
}

const shown = {};

function show(news) {
  box("run-status").innerHTML = news.html.status;
  box("run-state").innerHTML = news.html.state;
  for (const [part, html] of Object.entries(news.html)) {
    const panel = document.querySelector(`[data-part="${part}"]`);
    if (!panel || shown[part] === html) continue; // what is read, opened or selected stays as it is
    shown[part] = html;
    const log = panel.querySelector(".cf-log");
    const isAtEnd = log && log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
    panel.innerHTML = html;
    if (part === "measured") panel.hidden = html.trim() === "";
    if (isAtEnd) panel.querySelector(".cf-log").scrollTop = panel.querySelector(".cf-log").scrollHeight;
  }
  const nBefore = data.evals.step.length;
  Object.assign(data, { evals: news.evals, n_steps: news.n_steps, last_event: news.last_event });
  append(news.curves);
  if (!hasCharts) return;
  if (news.evals.n_rows) box("eval-note").textContent = `${news.evals.n_rows} rows${news.evals.plain == null ? "" : "; the dashed line is the untouched model"}`;
  write();
  const isWhole = nBefore !== news.evals.step.length;
  for (const id of Object.keys(specs())) update(id, { isWhole });
}

async function poll() {
  if (!document.hidden) {
    try {
      const after = data.curves.step.at(-1) ?? 0;
      const answer = await fetch(`${location.pathname}live/?after=${after}&event=${data.last_event}`, { headers: { Accept: "application/json" } });
      if (answer.ok) {
        const news = await answer.json();
        if (news.is_over) { location.reload(); return; }
        if (!hasCharts && (news.curves.step.length || news.evals.step.length)) { location.reload(); return; }
        show(news);
      }
    } catch { /* the server is away: the next poll tries again */ }
  }
  setTimeout(poll, EVERY_MS);
}
if (!data.is_over) setTimeout(poll, EVERY_MS);
