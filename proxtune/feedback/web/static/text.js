// What is read: prompts, conversations, answers; long ones fold, and two can be compared word by word.

import { button, el, words } from "./dom.js";

const LONG = 1500; // characters, or lines, from which on a text is folded
const LINES = 24;
const CELLS = 9_000_000; // of the table of a comparison

// A text as it was written.
export function text(content) {
  const body = el("div", { class: "text", dir: "auto" }, content);
  if (content.length <= LONG && content.split("\n").length <= LINES) return body;
  body.classList.add("folded");
  const more = button(words.unfold, "f", () => fold(body, more), { class: "more", "aria-expanded": "false" });
  return el("div", {}, body, more);
}

function fold(body, more) {
  const folded = body.classList.toggle("folded");
  more.lastChild.textContent = folded ? words.unfold : words.fold;
  more.setAttribute("aria-expanded", !folded);
}

export function foldAll() {
  document.querySelectorAll("#task .more").forEach((more) => more.click());
}

export function prompt(item) {
  if (typeof item.prompt === "string") {
    return item.prompt === "" ? null : card(words.prompt, text(item.prompt), "prompt");
  }
  const turns = item.prompt.map((turn) =>
    el("li", { class: `turn ${turn.role}` }, el("span", { class: "role" }, words[`turn_${turn.role}`]), text(turn.content)),
  );
  return card(words.conversation, el("ol", { class: "turns" }, turns), "prompt");
}

export function card(title, content, kind = "", ...more) {
  return el("section", { class: `card ${kind}`, "aria-label": title }, el("h2", {}, title), content, ...more);
}

// The prompt as one text: what labels and spans speak of.
export function plain(item) {
  if (typeof item.prompt === "string") return item.prompt;
  return item.prompt.map((turn) => `${turn.role}: ${turn.content}`).join("\n\n");
}

// Words, spaces and signs, one after another; Chinese too has words.
export function tokens(content) {
  return Array.from(new Intl.Segmenter(undefined, { granularity: "word" }).segment(content), (part) => part.segment);
}

// Two texts as lists of {text, only}: `only` is what the other has not. Null: too long to compare.
export function difference(left, right) {
  const [a, b] = [tokens(left), tokens(right)];
  let begin = 0;
  while (begin < Math.min(a.length, b.length) && a[begin] === b[begin]) begin += 1;
  const [n, m] = [a.length - begin, b.length - begin];
  if (n * m > CELLS) return null;
  const width = m + 1;
  const common = new Uint16Array((n + 1) * width); // of what follows a[i] and b[j], the longest common part
  for (let i = n - 1; i >= 0; i -= 1) {
    for (let j = m - 1; j >= 0; j -= 1) {
      common[i * width + j] =
        a[begin + i] === b[begin + j]
          ? common[(i + 1) * width + j + 1] + 1
          : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  const [ours, theirs] = [new Set(), new Set()];
  let [i, j] = [0, 0];
  while (i < n || j < m) {
    if (i < n && j < m && a[begin + i] === b[begin + j]) [i, j] = [i + 1, j + 1];
    else if (j === m || (i < n && common[(i + 1) * width + j] >= common[i * width + j + 1])) ours.add(begin + i++);
    else theirs.add(begin + j++);
  }
  return [marked(a, ours), marked(b, theirs)];
}

// Runs of a text's parts; a space counts as different where both its neighbours do.
function marked(parts, only) {
  const differs = (index) => (parts[index].trim() === "" ? only.has(index - 1) && only.has(index + 1) : only.has(index));
  const runs = [];
  parts.forEach((part, index) => {
    const last = runs.at(-1);
    if (last && last.only === differs(index)) last.text += part;
    else runs.push({ text: part, only: differs(index) });
  });
  return runs;
}

// Show in two elements of class `text` where they differ, or no longer.
export function compare(bodies, contents, on) {
  const runs = on ? difference(...contents) : null;
  bodies.forEach((body, side) => {
    const parts = runs ? runs[side].map((run) => (run.only ? el("mark", { class: "differs" }, run.text) : run.text)) : [contents[side]];
    body.replaceChildren(...parts);
  });
  return !on || runs !== null;
}
