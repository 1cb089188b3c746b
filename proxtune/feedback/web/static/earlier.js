// One's own last answers, to look at and to take back.

import { call } from "./api.js";
import { button, el, words } from "./dom.js";

const panel = document.getElementById("earlier");
const list = panel.querySelector("ul");

// `takeBack` gives an answer back to its author as a draft; `failed` says what went wrong.
export function earlier(takeBack, failed) {
  async function load() {
    if (panel.hidden) return;
    try {
      const said = await call("GET", "/api/mine");
      list.replaceChildren(...said.map(row));
      panel.querySelector("p").hidden = said.length > 0;
    } catch (problem) {
      failed(problem, load);
    }
  }

  function row(said) {
    const change = button(words.change, null, async () => {
      try {
        await takeBack(said);
        panel.hidden = true;
      } catch (problem) {
        failed(problem);
      }
    });
    const when = new Date(said.at * 1000).toLocaleString(document.documentElement.lang);
    const about = el("span", { class: "when" }, `${words[`kind_${said.kind}`]} · ${said.body.kind === "skip" ? words.skipped : when}`);
    return el("li", {}, el("div", {}, el("span", { class: "title" }, said.title), about), change);
  }

  document.addEventListener("earlier", load);
}
