// The list of what comes next: asked again after each change, with the places that each item gained or lost, and why it is there.

import { post } from "./api.js";
import { catalogue, colourVar, detailsOf, features, nameOf, remember, shownFeatures } from "./catalogue.js";
import { byId, calm, capital, count, dayOf, debounced, el, fill, icon, say, sentence } from "./dom.js";
import { about, actions, isOld, moment, person, rankFor, verb } from "./person.js";
import { act } from "./timeline.js";

const SHOWN = 12;
const WHY_AFTER_MS = 350; // reasons cost up to 17 times a list, so they are asked for once the clicks have ceased
const options = { exclude_seen: false, diversity: 0, group: "", target: "" };

const LEAST_FACTOR = 1.05; // a past item that makes less of a difference is not named
const reasons = new Map(); // item_id -> why it is in the list, of the last list that was explained

let places = null; // item_id -> place in the list before; null before the first list of a person
let running = null;
let clicked = 0; // when the change began, by performance.now
let tools = null;
let shown = [];

/** Why an item is in the list; "" where that is not known. */
export const whyOf = (item_id) => reasons.get(item_id) ?? "";

/** The items of the list now. */
export const listed = () => shown.map((item) => item.item_id);

/** `given.open(item_id)` shows an item, `given.onList()` is called with each new list. */
export function startRanked(given) {
  tools = given;
  drawOptions();
}

/** Another person: the next list is compared with none. */
export function forgetPlaces() {
  places = null;
}

/** Notes the moment of a click or key, from which the time to the new list is measured. */
export function noteInput(stamp) {
  clicked = stamp;
}

/** Asks for the list and draws it; an answer that a newer question overtook is dropped. */
export async function refresh() {
  running?.abort();
  whyLater.cancel();
  const mine = (running = new AbortController());
  const root = document.documentElement;
  root.dataset.busy = "yes";
  const began = clicked || performance.now();
  clicked = 0;
  const request = { ...about(), num_results: SHOWN, include_metadata: shownFeatures(), ...chosen() };
  const sent = performance.now();
  try {
    const answer = await post("v1/recommend", request, { signal: mine.signal });
    for (const item of answer.items) remember(item.item_id, item.metadata);
    draw(answer, performance.now() - sent);
    tools.onList();
    await painted();
    performance.measure("refresh", { start: began, end: performance.now() });
    whyLater(request, mine);
  } catch (trouble) {
    if (mine.signal.aborted) return;
    shown = [];
    places = null;
    fill(byId("facts"));
    fill(byId("when"));
    byId("left").hidden = true;
    fill(byId("ranked"), el("li", { class: "plain" }, sentence(trouble.message, { label: "Try again", run: refresh })));
    say(trouble.message);
    tools.onList();
  } finally {
    if (running === mine) root.dataset.busy = "no";
  }
}

const painted = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));

function chosen() {
  const asked = {};
  if (options.exclude_seen) asked.exclude_seen = true;
  if (options.diversity > 0) asked.diversity = options.diversity;
  if (options.target) asked.target_event_type = options.target;
  if (options.group) asked.filter = `\`${catalogue.group.replaceAll("`", "``")}\` == ${JSON.stringify(options.group)}`;
  return asked;
}

function draw(answer, tripMs) {
  const list = byId("ranked");
  const before = new Map([...list.querySelectorAll("li[data-item]")].map((node) => [node.dataset.item, node.getBoundingClientRect().top]));
  const old = places;
  const gone = old ? shown.filter((item) => !answer.items.some((one) => one.item_id === item.item_id)) : [];
  shown = answer.items;
  drawFacts(answer, tripMs);
  if (!shown.length) {
    fill(list, el("li", { class: "plain" }, sentence(emptyTold(answer))));
    places = new Map();
    return;
  }
  const scores = shown.map((item) => item.score);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  fill(list, shown.map((item, at) => itemRow(item, at, old, high > low ? (item.score - low) / (high - low) : 1)));
  places = new Map(shown.map((item, at) => [item.item_id, at]));
  slide(list, before);
  tellGone(gone);
  say(told(old, gone.length));
}

function emptyTold(answer) {
  if (answer.degraded.includes("filter_matches_nothing")) return "No item is left: the options above leave everything out. Change them.";
  if (options.exclude_seen) return "Everything that is left is something this person had already. Turn that option off.";
  return "The list is empty. The catalogue may hold no item that is allowed here.";
}

function told(old, numGone) {
  if (!old) return `${shown.length} items. First: ${nameOf(shown[0].item_id)}.`;
  const moved = shown.filter((item, at) => old.has(item.item_id) && old.get(item.item_id) !== at).length;
  const change = numGone || moved ? `${numGone} new, ${moved} moved` : "nothing moved";
  return `The list follows: ${change}. First: ${nameOf(shown[0].item_id)}.`;
}

function drawFacts(answer, tripMs) {
  const notes = {
    history_unavailable: "the store of histories did not answer: only what is shown here is known",
    past_forgotten: "part of what was known then is no longer kept",
    searches_ignored: "this release's model was trained without searches, so it does not read them",
  };
  fill(
    byId("facts"),
    el("span", { class: "fact", title: `${answer.took_ms.toFixed(1)} ms in the server, ${tripMs.toFixed(0)} ms with the way there and back` }, `${answer.took_ms < 10 ? answer.took_ms.toFixed(1) : Math.round(answer.took_ms)} ms`),
    el("span", { class: "fact", title: "The release that answered" }, answer.release.replace(/^release-/, "")),
    answer.variant !== "default" && el("span", { class: "fact" }, answer.variant),
  );
  const told = answer.degraded.filter((note) => notes[note]).map((note) => el("span", { class: "fact warn" }, `${capital(notes[note])}.`));
  const cold = !answer.events_used && !person.events.length;
  const told_by = cold ? "Nothing is known of this person yet, so this is what people in general do next" : `Read from the last ${count(answer.events_used)} event${answer.events_used === 1 ? "" : "s"}`;
  fill(byId("when"), told, `${told_by}, for ${dayOf(moment())}. `, isOld() && asOfButton());
}

function asOfButton() {
  const now = person.asOf === "now";
  const label = now ? "Rank for the day after the data end" : "Rank for today instead";
  return el("button", { type: "button", class: "link", on: { click: () => rankFor(now ? "end" : "now") } }, label);
}

function itemRow(item, at, old, share) {
  const name = nameOf(item.item_id);
  const id = item.item_id;
  return el(
    "li",
    { data: { item: id }, vars: { tint: colourVar(id), share: String(0.06 + 0.94 * share) } },
    el("span", { class: "place" }, String(at + 1)),
    el(
      "div",
      { class: "text" },
      el("button", { type: "button", class: "name", title: "Show this item and what is like it", on: { click: () => tools.open(id) } }, name),
      el("span", { class: "sub" }, el("span", { class: "dot" }), detailsOf(id).join(" · ")),
      el("span", { class: "why" }),
    ),
    el("div", { class: "score" }, badge(old, id, at), el("span", { class: "chance", title: "How likely this item is to be the next event's, among all items" }), el("span", { class: "number", title: "The model's score, which can be compared only within this list" }, item.score.toFixed(2).replace("-", "−")), el("span", { class: "meter", "aria-hidden": "true" })),
    el("div", { class: "acts" }, actButtons(id, name)),
  );
}

/** The buttons that add an event with an item to the history. */
export function actButtons(id, name) {
  const label = { view: "View", purchase: "Buy" };
  return actions()
    .slice(0, 3)
    .map((type) =>
      el(
        "button",
        { type: "button", class: `act ${type}`, data: { add: type }, title: `Add to the history: ${verb(type)} ${name}`, "aria-label": `${label[type] ?? calm(type)}: ${name}`, on: { click: () => act(type, id) } },
        icon(type),
        el("span", {}, label[type] ?? calm(type)),
      ),
    );
}

function badge(old, id, at) {
  if (!old) return el("span", { class: "badge none" });
  if (!old.has(id)) return el("span", { class: "badge new" }, "new");
  const gained = old.get(id) - at;
  if (!gained) return el("span", { class: "badge none" });
  const [kind, sign, word] = gained > 0 ? ["up", "+", "up"] : ["down", "−", "down"];
  return el("span", { class: `badge ${kind}`, "aria-label": `${word} ${Math.abs(gained)}` }, `${sign}${Math.abs(gained)}`);
}

/** Lets rows slide from where they were. */
function slide(list, before) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const node of list.querySelectorAll("li[data-item]")) {
    const top = before.get(node.dataset.item);
    const distance = top === undefined ? 0 : top - node.getBoundingClientRect().top;
    const from = top === undefined ? { opacity: 0, transform: "translateX(12px)" } : { transform: `translateY(${distance}px)` };
    if (top === undefined || distance) node.animate([from, { opacity: 1, transform: "none" }], { duration: 260, easing: "cubic-bezier(.2,.8,.2,1)" });
  }
}

function tellGone(gone) {
  const left = byId("left");
  left.hidden = !gone.length;
  if (gone.length) fill(left, `No longer among the first ${SHOWN}: `, gone.map((item) => nameOf(item.item_id)).join(", "), ".");
}

const whyLater = debounced(async (request, mine) => {
  const about_user = ["user_id", "session_id", "events", "history_mode", "timestamp", "target_event_type"];
  const score = Object.fromEntries(about_user.filter((name) => request[name] !== undefined).map((name) => [name, request[name]]));
  const ask = (path, body) => post(path, body, { signal: mine.signal });
  const [explained, chances] = await Promise.allSettled([
    ask("v1/recommend", { ...request, include_metadata: [], explain: true }),
    ask("v1/score", { ...score, candidate_item_ids: shown.map((item) => item.item_id) }),
  ]);
  if (mine.signal.aborted) return;
  reasons.clear();
  if (chances.status === "fulfilled") drawChances(chances.value.items);
  if (explained.status === "fulfilled") drawReasons(explained.value.items);
  const failed = [explained, chances].find((one) => one.status === "rejected");
  if (failed) byId("when").prepend(el("span", { class: "fact warn" }, `Reasons or chances are missing. ${failed.reason.message}`));
}, WHY_AFTER_MS);

const rowOf = (id) => [...byId("ranked").children].find((node) => node.dataset.item === id);

function drawChances(items) {
  for (const item of items) {
    const chance = Math.exp(item.log_probability);
    const node = rowOf(item.item_id)?.querySelector(".chance");
    if (node) node.textContent = chance >= 0.001 ? `${(100 * chance).toFixed(chance >= 0.1 ? 0 : 1)} %` : `1 in ${count(Math.round(1 / chance))}`;
  }
}

function drawReasons(items) {
  for (const item of items) {
    const node = rowOf(item.item_id)?.querySelector(".why");
    if (!node) continue;
    node.textContent = node.title = reasonsTold(item);
    reasons.set(item.item_id, node.textContent);
  }
}

function reasonsTold(item) {
  const own = item.reasons?.find((reason) => reason.item_id === item.item_id);
  const others = (item.reasons ?? []).filter((reason) => reason !== own && Math.exp(reason.effect ?? 0) >= LEAST_FACTOR);
  const parts = [];
  if (own) parts.push(own.text.replace(/^(\S[^:]*): /, (_, types) => `${types.split(", ").map(verb).join(", ")} `).replace("last today", "the last time today"));
  for (const reason of others.slice(0, 2)) {
    const title = features(reason.item_id) ? nameOf(reason.item_id) : calm(/^because of (.*) \(/.exec(reason.text)?.[1] ?? reason.item_id);
    parts.push(`${parts.length ? "" : "because of "}${title} (×${Math.exp(reason.effect).toFixed(1)})`);
  }
  if (!parts.length) return person.events.length || person.stored === null ? "No single event explains it" : "";
  const [first, ...rest] = parts;
  return capital(rest.length ? `${first}${own ? "; also because of " : ", "}${rest.join(", ")}` : first);
}

function drawOptions() {
  const change = (name, value) => {
    options[name] = value;
    refresh();
  };
  const groups = catalogue.groups.map((group) => el("option", { value: group.name }, `${calm(group.name)} (${count(group.items)})`));
  const variety = el("input", { type: "range", id: "variety", min: "0", max: "0.8", step: "0.1", value: "0", on: { change: (event) => change("diversity", Number(event.target.value)) } });
  fill(
    byId("options"),
    el("label", { class: "check" }, el("input", { type: "checkbox", id: "fresh", on: { change: (event) => change("exclude_seen", event.target.checked) } }), "Leave out what this person had"),
    el("label", { class: "field" }, el("span", {}, "Variety"), variety),
    catalogue.group && el("label", { class: "field" }, el("span", {}, `Only ${calm(catalogue.group).toLowerCase()}`), el("select", { id: "only", on: { change: (event) => change("group", event.target.value) } }, el("option", { value: "" }, "all"), groups)),
    el("label", { class: "field" }, el("span", {}, "Next event"), el("select", { id: "target", on: { change: (event) => change("target", event.target.value) } }, el("option", { value: "" }, "of any type"), ["purchase", "view"].map((type) => el("option", { value: type }, `a ${type}`)))),
  );
}
