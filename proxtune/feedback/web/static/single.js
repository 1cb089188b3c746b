// One answer: scores, a thumb, a better text, what is wrong with it.

import { button, choices, digit, el, words } from "./dom.js";
import { card, prompt, text } from "./text.js";

const shown = (item) => [prompt(item), card(words.answer, text(item.candidates[0]), "answer")];

export function rating(item, draft, changed) {
  const { criteria, scale } = item.options;
  const scores = new Map(Object.entries(draft.scores ?? {}));
  let at = 0;

  const rows = criteria.map((criterion, index) => {
    const options = Array.from({ length: scale }, (_, place) => ({ value: place + 1, label: String(place + 1) }));
    const group = choices(criterion, options, (score) => set(index, score));
    return { group, element: el("div", { class: "criterion" }, el("span", { class: "name" }, criterion), group.element) };
  });

  function set(index, score) {
    scores.set(criteria[index], score);
    const open = criteria.findIndex((criterion) => !scores.has(criterion));
    at = open < 0 ? index : open;
    mark();
    changed();
  }

  function mark() {
    rows.forEach(({ group, element }, index) => {
      group.mark(scores.get(criteria[index]));
      element.classList.toggle("current", index === at);
    });
  }

  function key(event) {
    const number = digit(event);
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (number && number <= scale) set(at, number);
    else if (step) {
      at = (at + step + criteria.length) % criteria.length;
      mark();
    } else return false;
    return true;
  }

  mark();
  const keys = el("p", { class: "hint" }, words.rating_hint, [`1 … ${scale}`, "↑", "↓"].map((name) => el("kbd", {}, name)));
  return {
    content: shown(item),
    controls: el("div", { class: "criteria" }, keys, rows.map((row) => row.element)),
    key,
    state: () => ({ scores: Object.fromEntries(scores) }),
    ready: () => criteria.every((criterion) => scores.has(criterion)),
    needs: words.needs_scores,
  };
}

export function thumb(item, draft, changed) {
  let up = draft.up;
  const options = [
    { value: true, label: words.good, key: "1" },
    { value: false, label: words.not_good, key: "2" },
  ];
  const group = choices(words.is_it_good, options, choose);

  function choose(value) {
    up = value;
    group.mark(up);
    changed();
  }

  function key(event) {
    const number = digit(event);
    if (number < 1 || number > 2) return false;
    choose(number === 1);
    return true;
  }

  group.mark(up);
  const ready = () => up !== undefined;
  return { content: shown(item), controls: group.element, key, state: () => ({ up }), ready, needs: words.needs_choice };
}

export function rewrite(item, draft, changed) {
  const field = el("textarea", { class: "rewrite", rows: "8", "aria-label": words.better_answer, oninput: changed, dir: "auto", maxlength: "100000" });
  field.value = draft.text ?? item.candidates[0];
  const edit = button(words.edit, "e", () => field.focus(), { class: "quiet" });

  function key(event) {
    if (event.key !== "e") return false;
    field.focus();
    return true;
  }

  return {
    content: [...shown(item), card(words.better_answer, field, "answer")],
    controls: null,
    extra: edit,
    key,
    state: () => ({ text: field.value }),
    ready: () => field.value.trim() !== "" && field.value !== item.candidates[0],
    needs: words.needs_text,
  };
}

// What is wrong with an answer; the flags themselves are those that every task has.
export function flags(item) {
  return { content: shown(item), controls: null, key: () => false, state: () => ({}), ready: () => true, needs: "" };
}
