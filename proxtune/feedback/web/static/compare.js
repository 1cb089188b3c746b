// Answers side by side: which of two is better, or the order of several.
//
// A kind of task is a function (item, draft, changed) that returns what to show (`content`, `controls`, `extra`), `key(event)`
// (whether it was the task's), `state()` (the answer so far), `ready()` (whether it is one) and `needs` (what is missing).

import { button, choices, digit, el, words } from "./dom.js";
import { card, compare, prompt, text } from "./text.js";

export const letter = (place) => String.fromCharCode(65 + place);

export function pair(item, draft, changed) {
  const scale = [2, 1, 0, -1, -2, "bad"]; // the preferences that keys 1 … 6 stand for
  const labels = [words.a_much_better, words.a_better, words.tie, words.b_better, words.b_much_better, words.both_bad];
  let chosen = draft.both_bad ? "bad" : draft.preference;
  let differences = false;

  const cards = item.candidates.map((content, place) => card(`${words.answer} ${letter(place)}`, text(content), "answer"));
  const options = scale.map((value, index) => ({ value, label: labels[index], key: String(index + 1) }));
  const group = choices(words.which_is_better, options, choose);
  const switcher = button(words.differences, "d", compareWords, { class: "quiet", "aria-pressed": "false" });

  function choose(value) {
    chosen = value;
    mark();
    changed();
  }

  function mark() {
    group.mark(chosen);
    cards[0].classList.toggle("better", chosen > 0);
    cards[1].classList.toggle("better", chosen < 0);
  }

  function compareWords() {
    differences = !differences;
    const bodies = cards.map((one) => one.querySelector(".text"));
    const possible = compare(bodies, item.candidates, differences);
    switcher.setAttribute("aria-pressed", differences && possible);
    if (!possible) switcher.lastChild.textContent = words.too_long;
  }

  function key(event) {
    const number = digit(event);
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (number && number <= scale.length) choose(scale[number - 1]);
    else if (step) choose(scale[Math.min(4, Math.max(0, (chosen === undefined ? 2 : scale.indexOf(chosen) % 5) + step))]);
    else if (event.key === "d") compareWords();
    else return false;
    return true;
  }

  const ready = () => chosen !== undefined;
  const state = () => (ready() ? { preference: chosen === "bad" ? 0 : chosen, both_bad: chosen === "bad" } : {});

  mark();
  group.element.classList.add("scale");
  const content = [prompt(item), el("div", { class: "side-by-side" }, cards)];
  return { content, controls: group.element, extra: switcher, key, state, ready, needs: words.needs_choice };
}

export function ranking(item, draft, changed) {
  const count = item.candidates.length;
  const ranks = draft.ranks ? [...draft.ranks] : Array(count).fill(null);
  let at = 0;

  const groups = item.candidates.map((_, place) =>
    choices(
      `${words.rank_of} ${letter(place)}`,
      Array.from({ length: count }, (_, index) => ({ value: index + 1, label: String(index + 1) })),
      (rank) => set(place, rank),
    ),
  );
  const cards = item.candidates.map((content, place) =>
    card(`${words.answer} ${letter(place)}`, text(content), "answer", el("div", { class: "rank" }, el("span", {}, words.rank), groups[place].element)),
  );

  function set(place, rank) {
    ranks[place] = rank;
    const open = ranks.indexOf(null);
    at = open < 0 ? place : open;
    mark();
    changed();
  }

  function mark() {
    groups.forEach((group, place) => group.mark(ranks[place]));
    cards.forEach((one, place) => {
      one.classList.toggle("current", place === at);
      one.setAttribute("aria-current", place === at);
    });
  }

  function key(event) {
    const number = digit(event);
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (number && number <= count) set(at, number);
    else if (step) {
      at = (at + step + count) % count;
      mark();
      cards[at].scrollIntoView({ block: "nearest" });
    } else return false;
    return true;
  }

  mark();
  const hint = el("p", { class: "hint" }, words.ranking_hint, [`1 … ${count}`, "↑", "↓"].map((name) => el("kbd", {}, name)));
  return {
    content: [prompt(item), el("div", { class: "grid" }, cards)],
    controls: hint,
    key,
    state: () => ({ ranks }),
    ready: () => !ranks.includes(null),
    needs: words.needs_ranks,
  };
}
