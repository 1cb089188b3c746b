// What every task has around it: its question, flags, a comment, and what to do with the answer.

import { button, el, words } from "./dom.js";

// A task of a kind, ready to be put on the page. `go` has submit, undo (or null), and a button with which to leave the item.
export function frame(item, kind, draft, changed, go) {
  const inner = kind(item, draft, changed);
  const flagged = new Set((draft.flags ?? []).filter((flag) => item.options.flags.includes(flag)));
  const plainKeys = item.kind === "flags"; // there they are the answer, and the digits are free
  const flagButtons = item.options.flags.map((flag, index) =>
    button(flag, index < 7 ? `${plainKeys ? "" : "⇧"}${index + 1}` : null, () => toggle(index), { class: "flag" }),
  );
  const comment = el("textarea", { id: "comment", rows: "1", maxlength: "100000", oninput: changed, placeholder: words.comment, "aria-label": words.comment, dir: "auto" });
  comment.value = draft.comment ?? "";

  function mark() {
    flagButtons.forEach((one, index) => one.setAttribute("aria-pressed", flagged.has(item.options.flags[index])));
  }

  function toggle(index) {
    const flag = item.options.flags[index];
    if (!flagged.delete(flag)) flagged.add(flag);
    mark();
    changed();
  }

  function key(event) {
    const number = /^Digit([1-7])$/.exec(event.code);
    if (number && event.shiftKey === !plainKeys && number[1] <= flagButtons.length) toggle(number[1] - 1);
    else return inner.key(event);
    return true;
  }

  mark();
  const heading = el("h1", { tabindex: "-1" }, words[`ask_${item.kind}`]);
  const flagRow = el("div", { class: "flags", role: "group", "aria-label": words.flags }, el("span", { class: "name" }, words.flags), flagButtons);
  const actions = el(
    "div",
    { class: "actions" },
    go.undo ? button(words.undo, "u", go.undo, { class: "quiet" }) : null,
    inner.extra ?? null,
    el("span", { class: "comment" }, el("kbd", { "aria-hidden": "true" }, "c"), comment),
    go.leave,
    button(words.submit, "↵", go.submit, { class: "primary", id: "submit" }),
  );
  const footer = el("footer", { class: "controls" }, inner.controls, flagButtons.length ? flagRow : null, actions);
  const element = el("article", { class: `task ${item.kind}-kind` }, heading, ...inner.content, footer);
  const state = () => ({ kind: item.kind, ...inner.state(), comment: comment.value, flags: [...flagged] });
  return { element, heading, key, state, ready: inner.ready, needs: inner.needs };
}
