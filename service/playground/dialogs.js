// Dialogs: an item and what is like it, the API key, and storing events.

import { get, idPath, post, readKey, writeKey } from "./api.js";
import { colourVar, detailsOf, nameOf, remember, shownFeatures } from "./catalogue.js";
import { byId, calm, capital, el, fill, icon, many, say, sentence } from "./dom.js";
import { person, storable } from "./person.js";
import { actButtons, whyOf } from "./ranked.js";

const ALIKE = 8;

/** Opens a dialog that ends with Escape, its button, or a click outside. */
function show(label, ...content) {
  const close = el("button", { type: "button", class: "icon-button close", "aria-label": "Close", on: { click: () => box.close() } }, icon("remove"));
  const box = el("dialog", { class: "dialog", "aria-label": label }, close, ...content);
  box.addEventListener("click", (click) => {
    if (click.target === box) box.close();
  });
  box.addEventListener("close", () => box.remove());
  byId("dialogs").append(box);
  box.showModal();
  return box;
}

/** Shows an item: all its features, the buttons that add it, and the items that are most like it. */
export async function openItem(item_id) {
  const told = el("dl", { class: "features" });
  const alike = el("ol", { class: "alike" }, el("li", { class: "plain" }, "Looking for similar items …"));
  const acts = el("div", { class: "acts wide" }, actButtons(item_id, nameOf(item_id)));
  const box = show(
    nameOf(item_id),
    el("h2", { vars: { tint: colourVar(item_id) } }, el("span", { class: "dot" }), nameOf(item_id)),
    whyOf(item_id) && el("p", { class: "hint" }, whyOf(item_id)),
    told,
    acts,
    el("h3", {}, "Most alike"),
    alike,
  );
  acts.addEventListener("click", () => box.close());
  alike.addEventListener("click", (click) => {
    if (click.target.closest(".act")) box.close();
  });
  try {
    const item = await get(`v1/items/${idPath(item_id)}`);
    remember(item_id, item.metadata);
    const rows = Object.entries(item.metadata).filter(([, value]) => value !== null && value !== "" && valueTold(value) !== nameOf(item_id));
    fill(told, rows.map(([name, value]) => [el("dt", {}, capital(name.replaceAll("_", " "))), el("dd", {}, valueTold(value))]), el("dt", {}, "Item id"), el("dd", {}, item_id));
    const similar = await post("v1/similar", { item_id, num_results: ALIKE, include_metadata: shownFeatures() });
    for (const one of similar.items) remember(one.item_id, one.metadata);
    fill(alike, similar.items.length ? similar.items.map((one) => alikeRow(one, box)) : el("li", { class: "plain" }, "No other item is in this catalogue."));
  } catch (trouble) {
    fill(alike, el("li", { class: "plain" }, sentence(trouble.message)));
  }
}

function valueTold(value) {
  if (typeof value === "number") return String(Number(value.toPrecision(4)));
  if (typeof value === "string") return calm(value);
  return JSON.stringify(value);
}

function alikeRow(item, box) {
  const id = item.item_id;
  const other = () => {
    box.close();
    openItem(id);
  };
  return el(
    "li",
    { vars: { tint: colourVar(id), share: String(Math.max(0.04, item.score)) } },
    el("div", { class: "text" }, el("button", { type: "button", class: "name", on: { click: other } }, nameOf(id)), el("span", { class: "sub" }, el("span", { class: "dot" }), detailsOf(id).join(" · "))),
    el("div", { class: "score" }, el("span", { class: "number", title: "Cosine of the two item vectors: 1 is the same" }, item.score.toFixed(2)), el("span", { class: "meter", "aria-hidden": "true" })),
    el("div", { class: "acts" }, actButtons(id, nameOf(id)).slice(0, 2)),
  );
}

let keyBox = null;

/** Asks for an API key. `why` is what the server said; `then` is called when a key was given. */
export function askKey(why, then) {
  if (keyBox?.isConnected) return;
  const input = el("input", { type: "password", id: "api-key", autocomplete: "off", spellcheck: false, value: readKey(), placeholder: "web-2026.SECRET" });
  const problem = el("p", { class: "hint warn", role: "alert", hidden: true });
  const save = (submitted) => {
    submitted.preventDefault();
    try {
      writeKey(input.value.trim());
      keyBox.close();
      then();
    } catch (trouble) {
      problem.hidden = false;
      problem.textContent = trouble.message;
    }
  };
  const forget = () => {
    input.value = "";
  };
  keyBox = show(
    "API key",
    el("h2", {}, icon("key"), "API key"),
    el("p", {}, why),
    el(
      "form",
      { class: "stack", on: { submit: save } },
      el("label", { for: "api-key" }, "Key"),
      input,
      problem,
      el("p", { class: "hint" }, "It stays in this tab until you close it, and goes to this server alone. `twotower keys new --scopes recommend,admin,metrics` makes one that opens every panel."),
      el("div", { class: "acts wide" }, el("button", { type: "submit", class: "button main" }, "Use this key"), readKey() && el("button", { type: "submit", class: "button", on: { click: forget } }, "Forget it")),
    ),
  );
  input.focus();
}

/** Asks whether the added events are to be stored, and stores them. `then` is called with the user's id. */
export function askStore(then) {
  const known = person.kind === "user";
  const input = el("input", { type: "text", id: "store-as", value: known ? person.id : `playground-${(person.id ?? "new").toLowerCase()}`, readOnly: known, maxLength: 128, autocomplete: "off", spellcheck: false });
  const problem = el("p", { class: "hint warn", role: "alert", hidden: true });
  const events = storable("");
  const save = async (submitted) => {
    submitted.preventDefault();
    const user_id = input.value.trim();
    if (!user_id) return;
    try {
      const told = await post("v1/events", { events: storable(user_id) });
      box.close();
      say(`${many(told.accepted, "event")} stored.`);
      then(user_id, told);
    } catch (trouble) {
      problem.hidden = false;
      problem.textContent = trouble.message;
    }
  };
  const box = show(
    "Store events",
    el("h2", {}, icon("save"), "Store these events"),
    el("p", {}, `${many(events.length, "event")} will be written to this server's store of histories, and every later answer for this user follows them.`),
    person.edited && el("p", { class: "hint warn" }, "Events that you removed or moved stay stored as they were: a store only takes events in."),
    el(
      "form",
      { class: "stack", on: { submit: save } },
      el("label", { for: "store-as" }, "User id"),
      input,
      problem,
      el("div", { class: "acts wide" }, el("button", { type: "submit", class: "button main" }, "Store"), el("button", { type: "button", class: "button", on: { click: () => box.close() } }, "Cancel")),
    ),
  );
  input.focus();
}

