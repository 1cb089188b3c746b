// What others said of an item, for whoever decides.

import { letter } from "./compare.js";
import { el, words } from "./dom.js";
import { card, plain } from "./text.js";

export function opinions(item) {
  const rows = item.said.map((body) => {
    const more = [...(body.kind === "flags" ? [] : body.flags), body.comment].filter((one) => one !== "");
    return el("li", {}, el("span", {}, described(body, item)), more.length ? el("span", { class: "hint" }, ` ${more.join(" · ")}`) : null);
  });
  return card(words.said, el("ul", { class: "said-list" }, rows), "said-card");
}

// An answer in one line.
export function described(body, item) {
  const kinds = {
    pair: () => (body.both_bad ? words.both_bad : preferred(body.preference)),
    ranking: () => order(body.ranks),
    rating: () => Object.entries(body.scores).map(([name, score]) => `${name} ${score}`).join(", "),
    thumb: () => (body.up ? words.good : words.not_good),
    rewrite: () => body.text,
    flags: () => body.flags.join(", ") || "—",
    label: () => body.labels.join(", ") || "—",
    spans: () => marked(body.spans, item),
    skip: () => words.skipped,
  };
  return kinds[body.kind]();
}

const preferred = (preference) => [words.b_much_better, words.b_better, words.tie, words.a_better, words.a_much_better][preference + 2];

function order(ranks) {
  const levels = [...new Set(ranks)].sort((a, b) => a - b);
  return levels.map((level) => ranks.flatMap((rank, place) => (rank === level ? [letter(place)] : [])).join(" = ")).join(" > ");
}

function marked(spans, item) {
  const characters = item ? Array.from(plain(item)) : null; // an answer that is sent again comes before its item
  const what = ({ begin, end }) => (characters ? characters.slice(begin, end).join("") : `${begin}–${end}`);
  return spans.map((span) => `${what(span)} (${span.label})`).join(", ") || "—";
}
