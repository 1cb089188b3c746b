// The classes of a text, and marks on parts of it.

import { choices, digit, el, words } from "./dom.js";
import { card, plain, text, tokens } from "./text.js";

// What there is to choose from: the first seven by their digit, all with ↑ ↓ and the space bar.
function palette(item, choose) {
  const options = item.options.labels.map((value, hue) => ({ value, label: value, hue, key: hue < 7 ? String(hue + 1) : null }));
  const group = choices(words.labels, options, choose);
  let at = 0;

  function move(step) {
    group.buttons[at].classList.remove("current");
    at = (at + step + options.length) % options.length;
    group.buttons[at].classList.add("current");
    group.buttons[at].scrollIntoView({ block: "nearest" });
  }

  function key(event) {
    const number = digit(event);
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (number && number <= options.length) choose(options[number - 1].value);
    else if (step) move(step);
    else if (event.key === " ") choose(options[at].value);
    else return false;
    return true;
  }

  group.buttons[0].classList.add("current");
  return { ...group, key };
}

export function label(item, draft, changed) {
  const chosen = new Set(draft.labels ?? []);
  const group = palette(item, choose);

  function choose(value) {
    const had = chosen.has(value);
    if (!item.options.multiple) chosen.clear();
    if (had) chosen.delete(value);
    else chosen.add(value);
    group.mark(chosen);
    changed();
  }

  group.mark(chosen);
  return {
    content: [card(words.text, text(plain(item)), "answer")],
    controls: group.element,
    key: group.key,
    state: () => ({ labels: [...chosen] }),
    ready: () => item.options.multiple || chosen.size === 1,
    needs: words.needs_label,
  };
}

// Offsets of the server are Unicode code points; the browser's are UTF-16 units.
const points = (content) => Array.from(content).length;

export function spans(item, draft, changed) {
  const content = plain(item);
  const characters = Array.from(content);
  const group = palette(item, add);
  const body = el("div", { class: "text markable", dir: "auto" });
  const list = el("ul", { class: "marks", "aria-label": words.marks });
  const wordList = spoken(content);
  let marks = [...(draft.spans ?? [])];
  let [from, to] = [-1, -1]; // the words that the keyboard has chosen

  const part = (begin, end) => characters.slice(begin, end).join("");
  const hue = (mark) => `hue-${item.options.labels.indexOf(mark.label) % 8}`;

  function draw() {
    marks.sort((a, b) => a.begin - b.begin);
    let end = 0;
    const parts = [];
    for (const mark of marks) {
      parts.push(part(end, mark.begin), el("mark", { class: `span ${hue(mark)}`, "data-label": mark.label }, part(mark.begin, mark.end)));
      end = mark.end;
    }
    body.replaceChildren(...parts, part(end));
    list.replaceChildren(...marks.map(chip));
    list.hidden = marks.length === 0;
  }

  function chip(mark) {
    const what = part(mark.begin, mark.end);
    const remove = el("button", { type: "button", "aria-label": `${words.remove} ${what}`, onclick: () => drop(mark.begin, mark.end) }, "×");
    return el("li", { class: hue(mark) }, el("span", { class: "what" }, what), el("span", { class: "label" }, mark.label), remove);
  }

  const keep = (begin, end) => marks.filter((mark) => mark.end <= begin || mark.begin >= end);

  function add(name) {
    const range = selected();
    if (!range) return;
    marks = [...keep(...range), { begin: range[0], end: range[1], label: name }];
    getSelection().removeAllRanges();
    draw();
    changed();
  }

  function drop(begin, end) {
    marks = keep(begin, end);
    draw();
    changed();
  }

  // The selected code points [begin, end) without the spaces around them, or null.
  function selected() {
    const selection = getSelection();
    if (selection.isCollapsed || !body.contains(selection.anchorNode) || !body.contains(selection.focusNode)) return null;
    const range = selection.getRangeAt(0);
    const before = document.createRange();
    before.selectNodeContents(body);
    before.setEnd(range.startContainer, range.startOffset);
    const what = range.toString();
    const begin = points(before.toString()) + points(what) - points(what.trimStart());
    return what.trim() === "" ? null : [begin, begin + points(what.trim())];
  }

  function select(begin, end) {
    const [range, selection] = [document.createRange(), getSelection()];
    range.setStart(...place(begin));
    range.setEnd(...place(end));
    selection.removeAllRanges();
    selection.addRange(range);
    range.startContainer.parentElement.scrollIntoView({ block: "nearest" });
  }

  // The text node and the offset in it of a code point.
  function place(point) {
    const walker = document.createTreeWalker(body, NodeFilter.SHOW_TEXT);
    let [node, left] = [walker.nextNode(), point];
    while (node && left > points(node.data)) {
      left -= points(node.data);
      node = walker.nextNode();
    }
    return [node, Array.from(node.data).slice(0, left).join("").length];
  }

  function move(step, extend) {
    if (wordList.length === 0) return;
    to = Math.min(wordList.length - 1, Math.max(0, to + step));
    if (!extend || from < 0) from = to;
    select(wordList[Math.min(from, to)][0], wordList[Math.max(from, to)][1]);
  }

  function key(event) {
    const range = selected();
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") move(event.key === "ArrowRight" ? 1 : -1, event.shiftKey);
    else if ((event.key === "Backspace" || event.key === "Delete") && range) drop(...range);
    else return group.key(event);
    return true;
  }

  draw();
  const keys = ["←", "→", "⇧→", "⌫"].map((name) => el("kbd", {}, name));
  return {
    content: [card(words.text, body, "answer", list)],
    controls: el("div", {}, el("p", { class: "hint" }, words.spans_hint, keys), group.element),
    key,
    state: () => ({ spans: marks }),
    ready: () => true,
    needs: "",
  };
}

// Where each word begins and ends, in code points.
function spoken(content) {
  const found = [];
  let begin = 0;
  for (const token of tokens(content)) {
    const end = begin + points(token);
    if (/[\p{L}\p{N}]/u.test(token)) found.push([begin, end]);
    begin = end;
  }
  return found;
}
