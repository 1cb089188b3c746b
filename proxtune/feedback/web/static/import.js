// A file is looked through as soon as it is chosen, and stays chosen.

const form = document.getElementById("import");
const words = JSON.parse(form.dataset.words);
const found = document.getElementById("found");

function element(tag, kind, text) {
  const made = document.createElement(tag);
  made.className = kind;
  made.textContent = text;
  return made;
}

async function check() {
  if (form.elements.file.files.length === 0) return;
  found.replaceChildren(element("p", "hint", words.checking));
  const body = new FormData(form);
  body.set("action", "check");
  try {
    const response = await fetch("/admin/import", { method: "POST", body, headers: { Accept: "application/json" } });
    show(response, await response.json());
  } catch {
    found.replaceChildren(element("p", "banner error", words.problem));
  }
}

function show(response, answer) {
  if (!response.ok) {
    const meaning = element("p", "banner error", words[`problem_${response.status}`] ?? words.problem);
    found.replaceChildren(meaning, element("p", "hint", answer.detail));
    return;
  }
  const { items, mistakes, more } = answer;
  if (mistakes.length === 0) {
    found.replaceChildren(element("p", "banner", `${words.import_items} ${items}`));
    return;
  }
  const list = element("ul", "mistakes", "");
  list.append(...mistakes.map((mistake) => element("li", "", mistake)));
  const rest = more > 0 ? [element("p", "hint", `${words.and_more} ${more}`)] : [];
  found.replaceChildren(element("p", "banner error", words.import_mistakes), list, ...rest);
}

form.elements.file.addEventListener("change", check);
