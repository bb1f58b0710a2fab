// A study's page. Charts: specs for charts.js out of the figures in study-charts. Live: the panels as HTML from the
// server while a run is at work; all state is in the database, so a refresh, a second window or a restarted server show
// the same.
const live = JSON.parse(document.getElementById("study-live").textContent);
const box = (id) => document.getElementById(id);
const EVERY_MS = 2000;
const DASHES = [undefined, [6, 4], [2, 3], [9, 3, 2, 3]];
const N_COLOURS = 4;

const seconds = (v) => (v < 60 ? `${v} s` : v < 3600 ? `${v / 60} min` : `${v / 3600} h`);
const bytes = (v) => (v < 1e3 ? `${v} B` : v < 1e6 ? `${v / 1e3} kB` : v < 1e9 ? `${v / 1e6} MB` : `${v / 1e9} GB`);
const marks = (factors) => [...Array(13).keys()].flatMap((power) => factors.map((factor) => factor * 10 ** power));
const decades = marks([1, 2, 5]); const finer = marks([1, 1.5, 2, 2.5, 3, 4, 5, 6, 8]);
const COSTS = {
  latency: { x: "latency p50, log scale", text: (v) => (v < 1000 ? `${v} ms` : `${v / 1000} s`), marks: decades },
  size: { x: "size of its files, log scale", text: bytes, marks: decades },
  training: { x: "one training, log scale", text: seconds, marks: [1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 18000, 36000, 86400, 172800, 604800] },
};
const LEAST_TICKS = 3; const MOST_TICKS = 6;

function thinned(marks) {
  const step = Math.ceil(marks.length / MOST_TICKS);
  return marks.filter((_, i) => i % step === 0);
}

// Zero has no logarithm: it gets a place of its own at the left.
function costAxis(values, { text, marks: coarse }) {
  const positive = values.filter((v) => v > 0);
  if (!positive.length) return { at: () => 1, xrange: [0.5, 2], xticks: [1], xlabels: ["0"] };
  const low = Math.min(...positive) / 1.35; const high = Math.max(...positive) * 1.35;
  const hasZero = positive.length < values.length;
  const zero = low / (high / low) ** 0.12;
  const within = (all) => all.filter((mark) => mark >= low && mark <= high);
  const ticks = thinned(within(coarse).length < LEAST_TICKS ? within(finer) : within(coarse));
  return {
    at: (v) => (v > 0 ? v : zero), xrange: [hasZero ? zero / (high / low) ** 0.06 : low, high],
    xticks: [...(hasZero ? [zero] : []), ...ticks], xlabels: [...(hasZero ? ["0"] : []), ...ticks.map(text)],
  };
}

function round(value) { return Number(value.toPrecision(3)); }

function pareto(charts, cost) {
  const kind = COSTS[cost];
  const { at, ...axis } = costAxis(charts.points.map((p) => p.costs[cost]), kind);
  const points = charts.points.map((p) => ({
    n: String(p.n), x: at(p.costs[cost]), y: p.y, lo: p.lo, hi: p.hi, front: p.front[cost],
    said: `${p.n} ${p.label}: ${p.y.toFixed(1)} % [${p.lo.toFixed(1)}, ${p.hi.toFixed(1)}], ${p.costs[cost] ? kind.text(round(p.costs[cost])) : "none"}`,
  }));
  return { kind: "pareto", x: kind.x, ...axis, points, note: "pareto-note" };
}

const style = (i) => ({ color: (i % N_COLOURS) + 1, dash: DASHES[Math.floor(i / N_COLOURS) % DASHES.length], points: true, digits: 1 });

// Curves over different steps on one axis: gaps become null.
function together(lines) {
  const steps = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const series = lines.map((line) => {
    const on = new Map(line.x.map((x, i) => [x, line.y[i]]));
    return { label: line.label, ...line.style, values: steps.map((x) => on.get(x) ?? null) };
  });
  return { steps, series };
}

function curves({ curves: { by, lines } }, shown) {
  const isShare = by === "value";
  const picked = lines.map((line, i) => ({ ...line, style: { ...style(i), ...(isShare ? { unit: " %" } : { digits: 3 }) } })).filter((_, i) => shown.has(i));
  return { kind: "lines", x: "step", height: 290, note: "curves-note", ...(isShare && { yrange: [0, 100] }), ...together(picked) };
}

function sizes({ sizes: lines, reference }, shown) {
  const picked = lines.map((line, i) => ({ ...line, style: { ...style(i), unit: " %" } })).filter((_, i) => shown.has(i));
  const { steps, series } = together(picked);
  const all = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  if (reference != null && steps.length) series.push({ label: "best without training", values: steps.map(() => reference), color: 2, dash: [5, 4], digits: 1, unit: " %" });
  return { kind: "lines", x: "rows to learn from", height: 290, note: "sizes-note", xlog: true, yrange: [0, 100], xrange: [all[0] / 1.15, all.at(-1) * 1.15],
    xticks: all, xlabels: all.map((v) => v.toLocaleString("en")), steps, series };
}

async function draw() {
  const charts = JSON.parse(box("study-charts").textContent);
  const lines = { curves: charts.curves.lines, sizes: charts.sizes };
  const shown = Object.fromEntries(Object.entries(lines).map(([name, all]) => [name, new Set(all.flatMap((line, i) => (line.shown ? [i] : [])))]));
  let cost = "latency";
  const specs = { "chart-pareto": () => pareto(charts, cost), "chart-curves": () => curves(charts, shown.curves), "chart-sizes": () => sizes(charts, shown.sizes) };
  const write = (id) => { if (box(id)) box(id).textContent = JSON.stringify(specs[id]()); };
  Object.keys(specs).forEach(write);
  const { update } = await import("./charts.js");
  document.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-cost], [data-line]");
    if (!button) return;
    if (button.dataset.cost) {
      cost = button.dataset.cost;
      button.parentElement.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
    } else {
      const of = shown[button.dataset.line]; const i = Number(button.value);
      if (!of.delete(i)) of.add(i);
      button.setAttribute("aria-pressed", String(of.has(i)));
    }
    const id = button.dataset.cost ? "chart-pareto" : `chart-${button.dataset.line}`;
    write(id);
    update(id, { isWhole: true });
  });
}
if (box("study-charts")) draw();

const last = {};

function show(html) {
  const places = { state: box("study-state"), status: box("study-status") };
  for (const [part, text] of Object.entries(html)) {
    const place = places[part] ?? document.querySelector(`[data-part="${part}"]`);
    if (!place || last[part] === text) continue; // what is read, opened or selected stays as it is
    last[part] = text;
    const before = place.querySelector(".cf-scroll")?.scrollLeft ?? 0;
    place.innerHTML = text;
    const after = place.querySelector(".cf-scroll");
    if (after) after.scrollLeft = before;
  }
}

async function poll() {
  if (!document.hidden) {
    try {
      const answer = await fetch(`${location.pathname}live/?event=${live.last_event}`, { headers: { Accept: "application/json" } });
      if (answer.ok) {
        const news = await answer.json();
        if (!news.is_live) { location.reload(); return; }
        show(news.html);
        live.last_event = news.last_event;
      }
    } catch { /* the server is away: the next poll tries again */ }
  }
  setTimeout(poll, EVERY_MS);
}
if (live.is_live) setTimeout(poll, EVERY_MS);
