// Who the page is about: somebody new, people made up from the catalogue's own groups, or a user of the store.

import { get, idPath } from "./api.js";
import { catalogue, groupColour, learn, remember } from "./catalogue.js";
import { byId, calm, el, fill, many, say } from "./dom.js";
import { OWN_COLOURS, kindColour } from "./palette.js";
import { choose, person } from "./person.js";
import { fold } from "./timeline.js";

const NAMES = ["Ada", "Ben", "Chen", "Dara", "Eli"];
const DAY = 86_400_000;
const POOL = 24; // popular items of a group, of which a made-up person has some
const MAX_LISTED = 30;

let made = [];
let showing = 0;

/** Makes the box of users work. */
export function startPeople() {
  byId("lookup").addEventListener("submit", (submitted) => {
    submitted.preventDefault();
    showUser(byId("user").value.trim());
  });
  byId("user").addEventListener("input", () => suggest(byId("user").value));
}

/** Draws the people that can be picked, and shows the first that has a history, unless somebody is shown. */
export async function showPeople() {
  made = madeUp();
  drawFaces();
  const asked = new URLSearchParams(location.search).get("user");
  if (asked) await showUser(asked);
  if (!person.name) await (made.length ? showMadeUp(made[0]) : showNew());
  suggest("");
}

/** People who buy from two groups each, mostly from the first: pairs of the largest groups that have names. */
function madeUp() {
  const groups = catalogue.groups.filter((group) => group.items >= 5 && group.name.trim()).slice(0, 2 * NAMES.length);
  return NAMES.map((name, at) => ({ name, main: groups[at], side: groups[at + NAMES.length] ?? groups[(at + 2) % groups.length] })).filter((one) => one.main);
}

function drawFaces() {
  const faces = [face({ name: "Newcomer", told: "no history", pressed: person.kind === "new", run: showNew, letter: "?" })];
  if (person.kind === "user") faces.push(face({ name: person.id, told: "from the store", pressed: true, run: () => showUser(person.id), letter: "#", tint: kindColour(0) }));
  for (const one of made) {
    const told = [one.main, one.side].filter(Boolean).map((group) => calm(group.name));
    faces.push(
      face({ name: one.name, told: told.join(", "), pressed: person.kind === "persona" && person.id === one.name, run: () => showMadeUp(one), letter: one.name[0], tint: groupColour(one.main.name) }),
    );
  }
  fill(byId("faces"), faces);
}

function face({ name, told, pressed, run, letter, tint = kindColour(OWN_COLOURS) }) {
  return el(
    "button",
    { type: "button", class: "face", "aria-pressed": String(pressed), vars: { tint }, on: { click: run } },
    el("span", { class: "avatar", "aria-hidden": "true" }, letter),
    el("span", {}, el("span", { class: "name" }, name), el("span", { class: "sub" }, told)),
  );
}

function hint(text) {
  byId("who-hint").hidden = !text;
  byId("who-hint").textContent = text;
}

function showNew() {
  showing += 1;
  hint("");
  fold();
  choose({ kind: "new", name: "Newcomer" });
  drawFaces();
}

/** Until the person is there and the list follows, the page is busy. */
function isBusy(busy) {
  document.documentElement.dataset.busy = busy ? "yes" : "no";
}

/** Gives a made-up person some popular items of their groups, over the last weeks before the data end. */
async function showMadeUp(one) {
  const mine = ++showing;
  hint("");
  isBusy(true);
  try {
    const [main, side] = await Promise.all([popular(one.main), popular(one.side)]);
    if (mine !== showing) return;
    const items = [main[0], side[0], main[1], main[2], side[1], main[3], main[0], main[4]].filter(Boolean);
    const end = (catalogue.popularity_as_of ?? Date.now()) - DAY;
    const events = items.map((item_id, at) => ({ event_type: "purchase", item_id, timestamp: Math.round(end - (items.length - 1 - at) * 2.6 * DAY + at * 3_540_000) }));
    fold();
    choose({ kind: "persona", id: one.name, name: one.name, events: events.map((event, at) => ({ ...event, timestamp: Math.min(event.timestamp, end - (items.length - 1 - at) * 60_000) })) });
    drawFaces();
  } catch (trouble) {
    if (mine !== showing) return;
    choose({ kind: "new", name: "Newcomer" });
    drawFaces();
    hint(trouble.message);
  }
}

/** Popular items of a group, of different kinds where the catalogue tells kinds apart. */
async function popular(group) {
  if (!group) return [];
  const told = await get("v1/items", { group: group.name, limit: POOL });
  const kinds = new Set();
  const first = [];
  const others = [];
  for (const item of told.items) {
    remember(item.item_id, item.metadata);
    const kind = catalogue.details.length ? item.metadata[catalogue.details[0]] : item.item_id;
    (kinds.has(kind) ? others : first).push(item.item_id);
    kinds.add(kind);
  }
  return [...first, ...others];
}

/** Shows a user of the store. A key without the scope `admin` ranks for the user without showing the events. */
export async function showUser(id) {
  if (!id) return;
  const mine = ++showing;
  byId("user").value = id;
  hint("");
  isBusy(true);
  try {
    const told = await get(`v1/users/${idPath(id)}`);
    if (mine !== showing) return;
    if (!told.num_events) {
      hint(`The store has no events of “${id}”. Pick a name from the list of the box, or make somebody up: what you add here can be stored.`);
      say(byId("who-hint").textContent);
      isBusy(false);
      return;
    }
    await learn(told.events.map((event) => event.item_id));
    if (mine !== showing) return;
    fold();
    choose({ kind: "user", id, name: `User ${id}`, events: told.events, stored: told.events, numStored: told.num_events });
  } catch (trouble) {
    if (mine !== showing) return;
    if (trouble.status !== 403) {
      hint(trouble.message);
      say(trouble.message);
      isBusy(false);
      return;
    }
    choose({ kind: "user", id, name: `User ${id}`, stored: null });
    hint("This key lacks the scope `admin`, so the events of this user stay hidden. The list still follows them.");
  }
  drawFaces();
}

let suggesting = null;

/** Fills the list below the box with users whose id begins with what is typed. */
async function suggest(prefix) {
  suggesting?.abort();
  suggesting = new AbortController();
  try {
    const told = await get("v1/users", { prefix, limit: MAX_LISTED }, { signal: suggesting.signal });
    if (told.users === null) {
      byId("user").placeholder = "user id";
      return;
    }
    fill(byId("users"), told.users.map((user) => el("option", { value: user.user_id }, many(user.num_events, "event"))));
    if (!prefix) byId("user").placeholder = told.users.length ? `such as ${told.users[0].user_id}` : "the store is empty";
  } catch (trouble) {
    if (trouble.name !== "AbortError") byId("user").placeholder = "user id";
  }
}
