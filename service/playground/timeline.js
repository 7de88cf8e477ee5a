// The history as a timeline, the latest first. Events are moved with the mouse, a finger or Alt+arrows, and removed with Delete.

import { colourVar, detailsOf, groupOf, nameOf } from "./catalogue.js";
import { byId, calm, capital, clockOf, dayOf, el, fill, icon, iconButton, many, say } from "./dom.js";
import { OWN_COLOURS, kindColour } from "./palette.js";
import { add, canUndo, move, person, remove, reset, undo, verb } from "./person.js";

const SHOWN = 14; // events before "show all"
let showsAll = false;
let focused = null; // the key of the event that keeps the focus when the list is drawn again

/** Draws the history. `tools` has what the panel does beyond it: open an item, store the events. */
export function drawTimeline(tools) {
  const list = byId("timeline");
  drawBar(tools);
  if (person.stored === null && person.kind === "user" && !person.events.length) {
    fill(list, row("This key may not read stored histories (scope `admin`), so the events of this user are not shown. The list on the page still follows them."));
    return;
  }
  if (!person.events.length) {
    fill(list, row("Nothing yet. Find an item above, or take one from the list of what comes next: the answer changes with the first event."));
    return;
  }
  const latest = [...person.events.keys()].reverse();
  const shown = showsAll ? latest : latest.slice(0, SHOWN);
  const rows = [];
  let day = "";
  for (const at of shown) {
    const event = person.events[at];
    if (dayOf(event.timestamp) !== day) {
      day = dayOf(event.timestamp);
      rows.push(el("li", { class: "day", role: "presentation" }, day));
    }
    rows.push(eventRow(event, at, tools));
  }
  if (latest.length > SHOWN) rows.push(more(latest.length, tools));
  fill(list, rows);
  if (focused !== null) list.querySelector(`[data-key="${focused}"]`)?.focus({ preventScroll: true });
  focused = null;
}

const row = (text) => el("li", { class: "empty" }, text);

function more(total, tools) {
  const label = showsAll ? "Show the latest only" : `Show all ${many(total, "event")}`;
  const toggle = () => {
    showsAll = !showsAll;
    drawTimeline(tools);
  };
  return el("li", { class: "more" }, el("button", { type: "button", class: "link", on: { click: toggle } }, label));
}

function drawBar(tools) {
  const facts = [el("span", { class: "fact" }, many(Math.max(person.numStored + person.events.filter((e) => e.added).length, person.events.length), "event"))];
  if (person.edited) facts.push(el("span", { class: "fact warn", title: "Events were removed or moved, so the request carries this history in place of the stored one." }, "edited"));
  else if (person.kind === "user") facts.push(el("span", { class: "fact" }, "stored"));
  if (person.numStored > (person.stored?.length ?? person.numStored)) facts.push(el("span", { class: "fact quiet" }, `last ${person.stored.length} shown`));
  fill(byId("past-facts"), facts);
  const changes = canUndo();
  const storable = person.kind === "user" ? person.events.some((event) => event.added) : person.events.length > 0;
  fill(
    byId("past-bar"),
    changes && el("button", { type: "button", class: "link", on: { click: undo } }, icon("undo"), "Undo"),
    changes && el("button", { type: "button", class: "link", on: { click: reset } }, "Undo all"),
    !changes && person.events.length > 1 && el("span", { class: "hint" }, "Drag to reorder, or Alt with the arrow keys; × removes."),
    storable && el("button", { type: "button", class: "link", id: "store", on: { click: tools.store } }, icon("save"), "Store these events…"),
  );
}

function eventRow(event, at, tools) {
  const name = event.item_id ? nameOf(event.item_id) : event.query ? `“${event.query}”` : calm(event.event_type);
  const details = event.item_id ? detailsOf(event.item_id).slice(0, 2) : [];
  const label = `${verb(event.event_type)} ${name}, ${dayOf(event.timestamp)} ${clockOf(event.timestamp)}`;
  const node = el(
    "li",
    {
      class: `event${event.added ? " added" : ""}`,
      tabIndex: 0,
      "aria-label": `${label}. Alt and arrow keys move it, Delete removes it.`,
      data: { key: event.key },
      vars: { tint: event.item_id && groupOf(event.item_id) ? colourVar(event.item_id) : kindColour(OWN_COLOURS) },
      on: { keydown: (pressed) => onKey(pressed, event, at, name) },
    },
    el("span", { class: "grip", title: "Drag to another place" }, icon("grip")),
    el("span", { class: "what", title: verb(event.event_type) }, icon(event.event_type)),
    el(
      "span",
      { class: "text" },
      event.item_id ? el("button", { type: "button", class: "name", tabIndex: -1, on: { click: () => tools.open(event.item_id) } }, name) : el("span", { class: "name" }, name),
      el("span", { class: "sub" }, [capital(verb(event.event_type)), clockOf(event.timestamp), ...details].join(" · ")),
    ),
    el(
      "span",
      { class: "row-tools" },
      at < person.events.length - 1 && iconButton("up", `Move ${name} one place up`, () => shift(event, at + 1, name), { tabIndex: -1 }),
      at > 0 && iconButton("down", `Move ${name} one place down`, () => shift(event, at - 1, name), { tabIndex: -1 }),
      iconButton("remove", `Remove ${name}`, () => drop(event, at, name)),
    ),
  );
  node.querySelector(".grip").addEventListener("pointerdown", (press) => startDrag(press, node, event, name));
  return node;
}

function onKey(pressed, event, at, name) {
  if (pressed.target !== pressed.currentTarget) return;
  const step = { ArrowUp: 1, ArrowDown: -1 }[pressed.key];
  if (step && pressed.altKey) {
    pressed.preventDefault();
    shift(event, at + step, name);
  } else if (step) {
    pressed.preventDefault();
    const rows = [...byId("timeline").querySelectorAll(".event")];
    rows[rows.indexOf(pressed.currentTarget) - step]?.focus();
  } else if (pressed.key === "Delete" || pressed.key === "Backspace") {
    pressed.preventDefault();
    drop(event, at, name);
  }
}

function shift(event, to, name) {
  focused = event.key;
  const place = person.events.length - to;
  if (!move(event.key, to, `${name} moved to place ${place} of the history.`)) {
    focused = null;
    say(`${name} is at the end already.`);
  }
}

function drop(event, at, name) {
  focused = (person.events[at - 1] ?? person.events[at + 1])?.key ?? null;
  remove(event.key, `${name} removed from the history.`);
}

/** Moves a row with the pointer; the others make room. The history changes when the row is let go. */
function startDrag(press, node, event, name) {
  if (press.button !== 0) return;
  press.preventDefault();
  const list = byId("timeline");
  const rows = [...list.querySelectorAll(".event")];
  const from = rows.indexOf(node);
  const middles = rows.map((one) => one.getBoundingClientRect().top + one.offsetHeight / 2 + scrollY);
  let to = from;
  node.classList.add("dragged");
  const onMove = (moved) => {
    const y = moved.pageY;
    node.style.transform = `translateY(${y - press.pageY}px)`;
    to = middles.filter((middle, at) => at !== from && middle < y).length;
    rows.forEach((one, at) => one.classList.toggle("gap-before", to <= from ? at === to && to !== from : false));
    rows.forEach((one, at) => one.classList.toggle("gap-after", to > from && at === to));
  };
  const onEnd = (ended) => {
    for (const [type, listener] of [["pointermove", onMove], ["pointerup", onEnd], ["pointercancel", onEnd], ["keydown", onEscape]]) removeEventListener(type, listener);
    node.classList.remove("dragged");
    node.style.transform = "";
    for (const one of rows) one.classList.remove("gap-before", "gap-after");
    if (ended.type !== "pointerup" || to === from) return;
    const target = person.events.findIndex((one) => String(one.key) === rows[to].dataset.key);
    focused = event.key;
    move(event.key, target, `${name} moved.`);
  };
  const onEscape = (pressed) => {
    if (pressed.key === "Escape") onEnd(pressed);
  };
  for (const [type, listener] of [["pointermove", onMove], ["pointerup", onEnd], ["pointercancel", onEnd], ["keydown", onEscape]]) addEventListener(type, listener);
}

/** Adds an event with an item, and says so. */
export function act(event_type, item_id) {
  add(event_type, { item_id }, `${capital(verb(event_type))} ${nameOf(item_id)}.`);
}

/** Adds a search. */
export function search(query) {
  add("search", { query }, `Searched for “${query}”.`);
}

/** A new person begins with the latest events. */
export function fold() {
  showsAll = false;
}
