// The person that the page is about: who, what they did, what was changed, and the request that asks what comes next.

import { catalogue } from "./catalogue.js";
import { randomId } from "./api.js";

const MINUTE = 60_000;
const DAY = 86_400_000;
const OLD = 30 * DAY; // data that end longer ago are asked about as of their end
const MOST_EVENTS = 1000; // an inline history may have 1,024
const UNDONE = 50;

const session = `playground-${randomId().slice(0, 8)}`;
const watchers = new Set();

/** `stored`: events in the store, in the order of time; null if they cannot be read. `events`: what the page shows. */
export const person = {
  kind: "new",
  id: null,
  name: "",
  stored: [],
  numStored: 0,
  events: [],
  edited: false, // events were removed or moved, so the history is sent in place of the stored one
  asOf: "end", // "end" ranks for the day after the data end, "now" for this moment
};
const past = [];
let next = 0;

/** Called after each change with what was changed, as a sentence. */
export function watch(watcher) {
  watchers.add(watcher);
}

function changed(what) {
  for (const watcher of watchers) watcher(what);
}

const keyed = (event) => ({ ...event, key: ++next });

/** Begins with another person. */
export function choose({ kind, id = null, name, events = [], stored = [], numStored = 0 }) {
  Object.assign(person, { kind, id, name, stored, numStored, events: events.map(keyed), edited: false });
  past.length = 0;
  changed(`${name}.`);
}

function edit(what, work) {
  past.push({ events: person.events, edited: person.edited, what });
  if (past.length > UNDONE) past.shift();
  work();
  changed(what);
}

/** The moment that the list is ranked for, in epoch milliseconds. */
export function moment() {
  const last = person.events.length ? person.events[person.events.length - 1].timestamp : 0;
  return Math.max(start(), last + 10 * MINUTE);
}

/** The moment at which the person acts: a day after what is stored, or after the catalogue's last event, or now. */
function start() {
  const now = Date.now();
  const end = person.stored?.length ? person.stored[person.stored.length - 1].timestamp : (catalogue.popularity_as_of ?? now);
  return person.asOf === "now" || now - end < OLD ? now : end + DAY;
}

/** Whether the data end so long ago that ranking for now is another question. */
export function isOld() {
  const asOf = person.asOf;
  person.asOf = "end";
  const old = Date.now() - start() > DAY;
  person.asOf = asOf;
  return old;
}

export function rankFor(asOf) {
  person.asOf = asOf;
  changed(asOf === "now" ? "The list is for this moment." : "The list is for the day after the data end.");
}

/** Adds an event at the end of the history. */
export function add(event_type, fields, what) {
  if (person.events.length >= MOST_EVENTS) return;
  const last = person.events.length ? person.events[person.events.length - 1].timestamp : 0;
  const timestamp = Math.max(start(), last + MINUTE);
  edit(what, () => (person.events = [...person.events, keyed({ event_type, timestamp, ...fields, added: true })]));
}

/** Removes an event. */
export function remove(key, what) {
  const gone = person.events.find((event) => event.key === key);
  if (!gone) return;
  edit(what, () => {
    person.events = person.events.filter((event) => event.key !== key);
    person.edited = person.edited || !gone.added;
  });
}

/** Moves an event to another place. The times stay where they are: what moves takes the time of its new place. */
export function move(key, to, what) {
  const from = person.events.findIndex((event) => event.key === key);
  if (from < 0 || to < 0 || to >= person.events.length || from === to) return false;
  edit(what, () => {
    const times = person.events.map((event) => event.timestamp);
    const events = [...person.events];
    const [moved] = events.splice(from, 1);
    events.splice(to, 0, moved);
    const touched = events.slice(Math.min(from, to), Math.max(from, to) + 1);
    person.edited = person.edited || touched.some((event) => !event.added);
    person.events = events.map((event, at) => (event.timestamp === times[at] ? event : { ...event, timestamp: times[at] }));
  });
  return true;
}

export const canUndo = () => past.length > 0;

export function undo() {
  const before = past.pop();
  if (!before) return;
  person.events = before.events;
  person.edited = before.edited;
  changed("Undone.");
}

/** Back to what is stored, or to the persona as it was. */
export function reset() {
  if (!past.length) return;
  const first = past[0];
  past.length = 0;
  person.events = first.events;
  person.edited = first.edited;
  changed("All changes are undone.");
}

const added = () => person.events.filter((event) => event.added);

/** The part of a request that says who it is about. A stored history is used as it is, unless it was edited. */
export function about() {
  if (person.kind === "user" && (!person.edited || person.stored === null)) {
    return { user_id: person.id, events: added().map(wire), timestamp: moment() };
  }
  return { session_id: session, events: person.events.map(wire), history_mode: "replace", timestamp: moment() };
}

/** An event as the interface takes it. */
function wire({ event_type, timestamp, item_id, query, properties, value }) {
  const event = { event_type, timestamp };
  if (item_id) event.item_id = item_id;
  if (query) event.query = query;
  if (value !== null && value !== undefined) event.value = value;
  if (properties && Object.keys(properties).length) event.properties = properties;
  return event;
}

/** The events that can be stored: those that were added, under a user's id, each with an id of its own. */
export function storable(user_id) {
  return (person.kind === "user" ? added() : person.events).map((event) => ({ ...wire(event), user_id, event_id: `${session}-${event.key}` }));
}

/** What a person may do with an item: the usual two, and what else the history holds. */
export function actions() {
  const seen = person.events.map((event) => event.event_type).filter((type) => type !== "search");
  return [...new Set(["view", "purchase", ...seen])].slice(0, 4);
}

const VERBS = { view: "viewed", purchase: "bought", search: "searched for", add_to_cart: "put into the cart", click: "clicked", rating: "rated" };

/** An event type as a verb in the past: "bought". */
export const verb = (event_type) => VERBS[event_type] ?? event_type.replaceAll("_", " ");
