// Elements. All text goes in as text nodes: what a model wrote is never read as HTML.

export const words = JSON.parse(document.getElementById("work").dataset.words);

// el("button", {class: "x", onclick: f, disabled: true}, "text", child, …); null and false leave an attribute out
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

// A button with its key printed on it.
export function button(label, key, onclick, attributes = {}) {
  const shown = key ? el("kbd", { "aria-hidden": "true" }, key) : null;
  const keys = key ? key.replace("⇧", "Shift+").replace("↵", "Enter") : null;
  return el("button", { type: "button", onclick, "aria-keyshortcuts": keys, ...attributes }, shown, el("span", {}, label));
}

// Buttons of which one, or several, are pressed. `mark(chosen)` shows which: a value, a Set of them, or nothing.
export function choices(name, options, choose) {
  const buttons = options.map(({ value, label, key, hue }) =>
    button(label, key, () => choose(value), { class: hue === undefined ? "choice" : `choice hue-${hue % 8}`, "data-choice": "" }),
  );
  const element = el("div", { class: "choices", role: "group", "aria-label": name }, buttons);
  function mark(chosen) {
    options.forEach(({ value }, index) => {
      const pressed = chosen instanceof Set ? chosen.has(value) : chosen === value;
      buttons[index].setAttribute("aria-pressed", pressed);
    });
  }
  mark(undefined);
  return { element, mark, buttons };
}

// The digit 1 … 7 of a key, or 0.
export function digit(event) {
  return /^[1-7]$/.test(event.key) ? Number(event.key) : 0;
}
