// The keyboard. The task's own keys come first: digits, arrows and a few letters that nothing here uses.

import { foldAll } from "./text.js";

const guide = document.getElementById("guide");
const help = document.getElementById("help");

export function showGuide() {
  guide.hidden = !guide.hidden;
  document.querySelector("[data-guide]").setAttribute("aria-expanded", !guide.hidden);
}

// `page` has task (a function), submit, skip and undo.
export function onKeys(page) {
  const global = { s: page.skip, u: page.undo, g: showGuide, f: foldAll, c: comment, h: history, "?": () => help.showModal() };

  document.addEventListener("keydown", (event) => {
    const name = event.key === "Process" ? event.code.replace(/^(Key|Digit)/, "").toLowerCase() : event.key;
    if (help.open || event.isComposing) return;
    if (event.target.matches("input, textarea, select")) typing(event, page);
    else if (event.ctrlKey || event.metaKey || event.altKey || leavesToElement(event)) return;
    else if (event.key === "Enter") act(event, page.task() && page.submit);
    else if (page.task()?.key(event)) event.preventDefault();
    else if (name === "u" || page.task() || !["s", "c"].includes(name)) act(event, global[name]);
  });

  document.querySelector("[data-guide]").addEventListener("click", showGuide);
  document.querySelector("[data-help]").addEventListener("click", () => help.showModal());
  document.querySelector("[data-history]").addEventListener("click", history);
}

function act(event, action) {
  if (!action || event.repeat) return;
  event.preventDefault();
  action();
}

// In a field all keys are the field's, but for leaving it and for sending.
function typing(event, page) {
  if (event.key === "Escape") event.target.blur();
  else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) act(event, page.task() && page.submit);
}

// A button that is no choice is pressed by Enter and the space bar, as everywhere.
function leavesToElement(event) {
  if (event.key !== "Enter" && event.key !== " ") return false;
  const pressed = event.target.closest("button, a, summary");
  return pressed !== null && (event.key === " " || !pressed.hasAttribute("data-choice"));
}

function comment() {
  document.getElementById("comment").focus();
}

function history() {
  document.getElementById("earlier").toggleAttribute("hidden");
  document.dispatchEvent(new Event("earlier"));
}
