// The context meter: what a row holds and what room is left, for the answer with the least room.
const box = document.querySelector("[data-context]");
const bar = box.querySelector("[data-context-bar]");
const dropped = document.querySelector("[data-dropped]");
const number = (n) => n.toLocaleString("en-GB");

export function showContext(answers, length) {
  const started = answers.filter((a) => Number.isFinite(a.prompt_tokens));
  box.hidden = !started.length;
  if (!started.length) return;
  const used = (a) => (a.prefix_tokens ?? 0) + a.prompt_tokens + (a.tokens ?? 0);
  const fullest = started.reduce((most, a) => (used(a) > used(most) ? a : most));
  const parts = { prefix: fullest.prefix_tokens ?? 0, prompt: fullest.prompt_tokens, answer: fullest.tokens ?? 0 };
  let x = 0;
  for (const [name, n] of Object.entries(parts)) {
    const rect = bar.querySelector(`[data-part=${name}]`);
    const width = (100 * n) / length;
    rect.setAttribute("x", `${x.toFixed(2)}%`);
    rect.setAttribute("width", `${width.toFixed(2)}%`);
    x += width;
  }
  const left = Math.max(0, length - used(fullest));
  const words = `${number(parts.prefix)} virtual · ${number(parts.prompt)} prompt · ${number(parts.answer)} answer`;
  bar.setAttribute("aria-label", `Context of ${fullest.label}: ${words}; ${number(left)} of ${number(length)} tokens left`);
  box.querySelector("[data-context-parts]").textContent = `${started.length > 1 ? `${fullest.label}: ` : ""}${words}`;
  box.querySelector("[data-context-left]").textContent = number(left);
  const lost = started.filter((a) => Number(a.dropped) > 0);
  dropped.textContent = lost.length
    ? lost.map((a) => `${a.label}: ${number(Number(a.dropped))} of the oldest message${a.dropped === 1 ? "" : "s"} did not fit and ${a.dropped === 1 ? "was" : "were"} dropped.`).join(" ")
    : "Nothing was dropped. Answers go on when you close this page.";
}
