// A streaming answer as inert DOM: text nodes, paragraphs, and buttons for [n] markers of known sources. Never markup.
const MARKER = /\[(\d{1,3}(?:\s*[,;]\s*\d{1,3})*)\]/g;

export function chip(n) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "cf-cite";
  button.dataset.n = n;
  button.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-label", `Source ${n}`);
  button.textContent = n;
  return button;
}

function nodes(text, known) {
  const found = [];
  let at = 0;
  for (const match of known.size ? text.matchAll(MARKER) : []) {
    const numbers = match[1].split(/\s*[,;]\s*/).map(Number).filter((n) => known.has(n));
    if (!numbers.length) continue;
    found.push(text.slice(at, match.index), ...numbers.map(chip));
    at = match.index + match[0].length;
  }
  found.push(text.slice(at));
  return found;
}

export class StreamedText {
  constructor(box) {
    this.box = box;
    this.text = "";
    this.known = new Set();
    this.paragraphs = [];
    this.caret = document.createElement("span");
    this.caret.className = "cf-caret";
    this.isDrawing = false;
  }

  add(text) {
    this.text += text;
    if (this.isDrawing) return;
    this.isDrawing = true;
    requestAnimationFrame(() => { this.isDrawing = false; this.draw(); });
  }

  /** Only paragraphs that changed are made anew. */
  draw() {
    const parts = this.text.split(/\n{2,}/);
    if (!this.paragraphs.length) this.box.replaceChildren();
    parts.forEach((part, i) => {
      if (this.paragraphs[i]?.part === part) return;
      const p = this.paragraphs[i]?.p ?? this.box.appendChild(document.createElement("p"));
      p.className = "cf-plain";
      p.replaceChildren(...nodes(part, this.known));
      this.paragraphs[i] = { part, p };
    });
    this.paragraphs.at(-1).p.append(this.caret);
  }
}
