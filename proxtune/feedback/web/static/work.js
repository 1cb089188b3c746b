// One item after another: show it, keep what is typed, send it, show the next. A reviewer decides one item in the same way.

import { Kept, Problem, attempt, call, identify } from "./api.js";
import { pair, ranking } from "./compare.js";
import { button, el, words } from "./dom.js";
import { earlier } from "./earlier.js";
import { frame } from "./frame.js";
import { onKeys } from "./keys.js";
import { label, spans } from "./labels.js";
import { described, opinions } from "./review.js";
import { flags, rating, rewrite, thumb } from "./single.js";

const KINDS = { pair, ranking, rating, thumb, rewrite, flags, label, spans };
const DRAFT_AFTER = 500; // milliseconds without a change
const LONGEST_WAIT = 30_000; // between two attempts to send

const page = document.getElementById("work");
const review = page.dataset.review; // the item that a reviewer decides, or undefined
const place = document.getElementById("task");
const banner = document.getElementById("banner");
const status = document.getElementById("status");
let kept, me, item, task, draftTimer, sendTimer;

function say(message, kind = "info", ...actions) {
  banner.className = `banner ${kind}`;
  banner.replaceChildren(el("span", {}, message), ...actions);
  banner.hidden = false;
}

function quiet() {
  banner.hidden = true;
}

function progress() {
  const bar = document.getElementById("today");
  bar.hidden = false;
  bar.querySelector("progress").max = me.daily;
  bar.querySelector("progress").value = Math.min(me.today, me.daily);
  bar.querySelector("span").textContent = `${words.today} ${me.today} / ${me.daily}`;
}

async function next() {
  try {
    me = await identify();
    progress();
    item = await call("GET", review ? `/api/items/${review}/review` : "/api/next");
  } catch (problem) {
    failed(problem, next);
    return;
  }
  if (item === null) done();
  else show();
}

function done() {
  task = null;
  const undoLast = button(words.undo, "u", undo, { class: "quiet" });
  const again = button(words.look_again, null, next, { class: "primary" });
  place.replaceChildren(el("section", { class: "empty" }, el("h1", { tabindex: "-1" }, words.all_done), el("p", {}, words.all_done_more), again, undoLast));
}

function show() {
  const draft = kept.get(`draft/${item.id}`) ?? item.draft ?? {};
  const leave = review ? button(words.back_to_list, "s", skip, { class: "quiet" }) : button(words.skip, "s", skip, { class: "quiet" });
  task = frame(item, KINDS[item.kind], draft, changed, { submit, leave, undo: review ? null : undo });
  if (review) task.heading.after(opinions(item));
  place.replaceChildren(task.element);
  window.scrollTo(0, 0);
  task.heading.focus({ preventScroll: true });
  document.getElementById("newer").hidden = Number(page.dataset.version) === item.guideline_version;
}

function changed() {
  kept.set(`draft/${item.id}`, task.state());
  clearTimeout(draftTimer);
  if (!review) draftTimer = setTimeout(saveDraft, DRAFT_AFTER, item.id);
}

async function saveDraft(id) {
  const draft = kept.get(`draft/${id}`);
  if (draft === null) return;
  try {
    await call("PUT", `/api/items/${id}/draft`, draft);
    if (JSON.stringify(kept.get(`draft/${id}`)) === JSON.stringify(draft)) kept.remove(`draft/${id}`);
    status.textContent = words.draft_saved;
  } catch (problem) {
    if (problem.passes) draftTimer = setTimeout(saveDraft, 5000, id);
    status.textContent = problem.passes ? words.draft_kept : meaning(problem);
  }
}

function submit() {
  if (!task.ready()) say(task.needs, "warn");
  else answer(task.state());
}

function skip() {
  if (review) location.assign("/review");
  else answer({ kind: "skip" });
}

function answer(body) {
  const path = `/api/items/${item.id}/${review ? "final" : "judgement"}`;
  send({ path, id: item.id, answer: { body, revision: item.revision, request: attempt() } });
}

// From here on the answer is kept until the server has it, and nothing about it can change: it has its name.
async function send(entry, wait = 1000) {
  clearTimeout(draftTimer);
  clearTimeout(sendTimer);
  kept.set("outbox", entry);
  place.inert = true;
  try {
    await call("POST", entry.path, entry.answer);
  } catch (problem) {
    refused(problem, entry, wait);
    return;
  }
  settled(entry);
  if (entry.path.endsWith("final")) {
    location.assign("/review");
    return;
  }
  status.textContent = words.sent;
  next();
}

function settled(entry) {
  kept.remove("outbox");
  kept.remove(`draft/${entry.id}`);
  place.inert = false;
  quiet();
}

function refused(problem, entry, wait) {
  if (problem.passes) {
    const later = Math.min(wait * 2, LONGEST_WAIT);
    sendTimer = setTimeout(send, wait, entry, later);
    say(meaning(problem), "warn", button(words.send_now, null, () => send(entry, later)), detail(problem));
  } else if (problem.status === 409 && problem.current) conflict(problem.current, entry);
  else if (problem.status === 401) failed(problem);
  else {
    kept.remove("outbox");
    place.inert = false;
    if (problem.status === 409) say(words.not_yours, "warn", button(words.load_next, null, () => (settled(entry), next())));
    else say(words[`problem_${problem.status}`] ?? words.refused, "error", detail(problem));
  }
}

function conflict(current, entry) {
  const mine = button(words.send_mine, null, () => {
    send({ ...entry, answer: { ...entry.answer, revision: current.revision + 1, request: attempt() } });
  });
  const theirs = button(words.keep_other, null, () => (settled(entry), next()));
  say(words.conflict, "warn", el("b", {}, current.body ? described(current.body, item) : words.taken_back), mine, theirs);
}

// Something that was not an answer did not work; `again` is tried when the reader wants.
function failed(problem, again) {
  if (!(problem instanceof Problem)) throw problem;
  if (problem.status === 401) say(words.logged_out, "warn", el("a", { href: "/login", class: "button" }, words.log_in));
  else say(meaning(problem), "warn", again ? button(words.try_again, null, () => (quiet(), again())) : "", detail(problem));
}

function meaning(problem) {
  const known = { 0: words.no_connection, 503: words.busy, 507: words.full };
  return known[problem.status] ?? words[`problem_${problem.status}`] ?? words.server_failed;
}

// What the server says of it, in English whatever the page's language is.
function detail(problem) {
  return problem.message ? el("small", { class: "detail", lang: "en" }, problem.message) : "";
}

async function undo() {
  try {
    const [last] = await call("GET", "/api/mine");
    if (last) await takeBack(last);
    else say(words.nothing_to_undo);
  } catch (problem) {
    failed(problem, undo);
  }
}

async function takeBack(said) {
  await call("DELETE", `/api/items/${said.id}/judgement`, { revision: said.revision + 1, request: attempt() });
  kept.remove(`draft/${said.id}`);
  quiet();
  if (review) {
    location.assign("/work");
    return;
  }
  await next();
  status.textContent = words.undone;
}

async function begin() {
  try {
    me = await identify();
  } catch (problem) {
    failed(problem, begin);
    return;
  }
  kept = new Kept(me.id);
  onKeys({ task: () => (place.inert ? null : task), submit, skip, undo: review ? null : undo });
  earlier(takeBack, failed);
  window.addEventListener("online", () => kept.get("outbox") && send(kept.get("outbox")));
  const unsent = kept.get("outbox");
  if (unsent) send(unsent);
  else next();
}

begin();
