// Which rows shared which steps of the one frozen model: live from the tokens, afterwards from what was kept.
const panel = document.getElementById("batch");
const lanes = panel.querySelector("[data-lanes]");
const line = panel.querySelector("[data-batch-line]");
const note = panel.querySelector("[data-batch-note]");
const engine = panel.querySelector("[data-batch-engine]");
const live = new WeakMap();
const number = (n) => n.toLocaleString("en-GB");
let shownTurn = null;
// Open where there is room for it; on a phone it is a sheet over the thread.
panel.open = matchMedia("(min-width: 961px)").matches;

const stateOf = (turn) => {
  if (!live.has(turn)) live.set(turn, { rowsAt: new Map(), oursAt: new Map(), batch: null });
  return live.get(turn);
};

export function addToken(turn, data, event) {
  if (!Number.isFinite(event.step)) return;
  data.first_step ??= event.step;
  data.last_step = event.step;
  const state = stateOf(turn);
  state.rowsAt.set(event.step, event.rows ?? 0);
  state.oursAt.set(event.step, (state.oursAt.get(event.step) ?? 0) + 1);
}

export function addBatch(turn, event) {
  const state = stateOf(turn);
  state.batch = event;
}

let answers = [];
export function showBatch(turn, given) {
  shownTurn = turn;
  answers = given;
  draw();
}

/** The steps in which most of these ranges ran together. */
function shared(ranges) {
  let best = { n: 0, from: 0, to: 0 };
  for (const at of ranges.map((r) => r.first_step)) {
    const together = ranges.filter((r) => r.first_step <= at && r.last_step >= at);
    const to = Math.min(...together.map((r) => r.last_step));
    if (together.length > best.n || (together.length === best.n && to - at > best.to - best.from)) best = { n: together.length, from: at, to };
  }
  return best;
}

function rect(x, width, className) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  node.setAttribute("x", `${x.toFixed(2)}%`);
  node.setAttribute("width", `${Math.max(width, 0.6).toFixed(2)}%`);
  node.setAttribute("height", "10");
  node.setAttribute("class", className);
  return node;
}

function lane(label, rects, figure, soft = false) {
  const name = document.createElement("span");
  name.textContent = label;
  name.title = label;
  if (soft) name.className = "cf-soft";
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  svg.append(...rects);
  const value = document.createElement("span");
  value.className = "cf-num";
  value.textContent = figure;
  return [name, svg, value];
}

/** Steps with more live rows than ours: others were in the batch. */
function othersOf(state) {
  const steps = [...state.rowsAt].filter(([step, rows]) => rows > (state.oursAt.get(step) ?? 0)).map(([step]) => step);
  return steps.length ? { first_step: Math.min(...steps), last_step: Math.max(...steps) } : null;
}

function drawOthers(state, place) {
  const rows = (state.batch?.rows ?? []).filter((row) => row.mine === null || row.mine === undefined);
  const range = othersOf(state);
  const names = new Map();
  rows.forEach((row) => names.set(row.label, (names.get(row.label) ?? 0) + 1));
  return [...names].flatMap(([name, n]) => lane(n > 1 ? `${name} (${n})` : name, range ? place(range, "f-line") : [], `${n} row${n > 1 ? "s" : ""}`, true));
}

function sizeOf(bytes) {
  const unit = ["B", "kB", "MB", "GB"].findIndex((_, i) => bytes < 1000 ** (i + 1) || i === 3);
  const value = bytes / 1000 ** unit;
  return `${value.toFixed(unit < 2 || value >= 100 ? 0 : 1)} ${["B", "kB", "MB", "GB"][unit]}`;
}

/** The whole engine while these rows ran: amounts only, since other teams' rows are among them. */
function figuresOf(batch) {
  if (!batch) return "";
  const said = [`${batch.rows.length} of ${batch.slots} rows`];
  if (batch.tokens_per_s) said.push(`${number(Math.round(batch.tokens_per_s))} tok/s`);
  said.push(`${number(batch.queue ?? 0)} waiting`, `${number(batch.n_resident)} task${batch.n_resident === 1 ? "" : "s"} in memory, ${sizeOf(batch.resident_bytes)}`);
  if (Number.isFinite(batch.prefix_share)) said.push(`prefix hit rate ${batch.prefix_share.toFixed(0)} %`);
  return `: ${said.join(" · ")}`;
}

function draw() {
  const ran = answers.filter((a) => a.tokens && Number.isFinite(a.first_step) && Number.isFinite(a.last_step));
  panel.hidden = !ran.length;
  if (!ran.length) return;
  const home = (a) => `${a.engine} ${a.model ?? ""}`;
  const here = home(ran.findLast((a) => !a.model) ?? ran.at(-1));
  const together = ran.filter((a) => home(a) === here);
  const from = Math.min(...together.map((a) => a.first_step));
  const span = Math.max(...together.map((a) => a.last_step)) - from + 1;
  const place = (r, kind) => [rect((100 * (r.first_step - from)) / span, (100 * (r.last_step - r.first_step + 1)) / span, kind)];
  const best = shared(together);
  const state = stateOf(shownTurn);
  const step = best.from === best.to ? `step ${number(best.from)}` : `steps ${number(best.from)}–${number(best.to)}`;
  if (best.n > 1) line.textContent = `Batch: ${best.n} rows shared ${step} of one pass of the frozen model`;
  else if (ran.length > 1) line.textContent = "Batch: these rows ran at different times and shared no step";
  else line.textContent = `Batch: 1 row, ${step} of the frozen model`;
  const ms = state.batch?.step_ms;
  if (ms) line.textContent += ` · ${ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`} a step`;
  lanes.replaceChildren(...ran.flatMap((a) => {
    const isHere = home(a) === here;
    const tokens = `${number(a.tokens ?? 0)} token${a.tokens === 1 ? "" : "s"}${a.open ? "" : ", finished"}`;
    return lane(a.label, isHere ? place(a, "f-grown") : [], isHere ? tokens : `${tokens}, ${a.model ? "on a model of its own" : "on another engine"}`);
  }), ...drawOthers(state, place));
  engine.textContent = figuresOf(state.batch);
  const others = ran.length - together.length;
  note.textContent = `Steps ${number(from)}–${number(from + span - 1)} of the engine from left to right; where lanes overlap, one pass made a token for each.${others ? ` ${others} ran elsewhere.` : ""}`;
}
