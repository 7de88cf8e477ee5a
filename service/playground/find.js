// Finding items by words: a box with a list below, used with the mouse or with the arrow keys.

import { get } from "./api.js";
import { colourVar, detailsOf, nameOf, remember } from "./catalogue.js";
import { byId, debounced, el, fill, many } from "./dom.js";
import { actButtons } from "./ranked.js";
import { act } from "./timeline.js";

const ASK_AFTER_MS = 120;
const LIMIT = 8;

/** Puts the box into #finder. Enter adds a purchase, Shift+Enter a view. */
export function startFind() {
  const input = el("input", {
    type: "text",
    id: "find",
    role: "combobox",
    placeholder: "Add an item: type some words",
    autocomplete: "off",
    spellcheck: false,
    maxLength: 100,
    "aria-label": "Find an item to add",
    "aria-expanded": "false",
    "aria-controls": "found",
    "aria-autocomplete": "list",
  });
  const list = el("ul", { id: "found", class: "found", role: "listbox", "aria-label": "Items found", hidden: true });
  fill(byId("finder"), input, list);
  let at = -1;
  let asking = null;

  const close = () => {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
    at = -1;
  };
  const open = (...rows) => {
    fill(list, rows);
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    at = -1;
  };
  const choose = (next) => {
    const rows = [...list.querySelectorAll("[role=option]")];
    if (!rows.length) return;
    at = (next + rows.length) % rows.length;
    rows.forEach((row, index) => row.setAttribute("aria-selected", String(index === at)));
    rows[at].scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", rows[at].id);
  };
  const ask = debounced(async () => {
    const words = input.value.trim();
    asking?.abort();
    if (!words) return close();
    asking = new AbortController();
    try {
      const told = await get("v1/items", { words, limit: LIMIT }, { signal: asking.signal });
      for (const item of told.items) remember(item.item_id, item.metadata);
      if (!told.items.length) return open(el("li", { class: "none" }, `No item has “${words}” in its name or categories.`));
      const more = told.matching > told.items.length ? [el("li", { class: "none" }, `${many(told.matching, "item")} match; these are the most popular.`)] : [];
      open(told.items.map(found), more);
      choose(0);
    } catch (trouble) {
      if (trouble.name !== "AbortError") open(el("li", { class: "none" }, trouble.message));
    }
  }, ASK_AFTER_MS);
  const take = (type, id) => {
    input.value = "";
    close();
    act(type, id);
    input.focus();
  };

  input.addEventListener("input", ask);
  input.addEventListener("keydown", (pressed) => {
    if (pressed.key === "ArrowDown" || pressed.key === "ArrowUp") {
      pressed.preventDefault();
      choose(at + (pressed.key === "ArrowDown" ? 1 : -1));
    } else if (pressed.key === "Escape") {
      close();
    } else if (pressed.key === "Enter" && at >= 0 && !list.hidden) {
      pressed.preventDefault();
      take(pressed.shiftKey ? "view" : "purchase", list.querySelectorAll("[role=option]")[at].dataset.item);
    }
  });
  list.addEventListener("click", (click) => {
    const row = click.target.closest("[role=option]");
    if (row && !click.target.closest("button")) take("purchase", row.dataset.item);
    else if (row) {
      input.value = "";
      close();
    }
  });
  byId("finder").addEventListener("focusout", (left) => {
    if (!byId("finder").contains(left.relatedTarget)) close();
  });
}

function found(item, at) {
  const id = item.item_id;
  return el(
    "li",
    { role: "option", id: `found-${at}`, "aria-selected": "false", data: { item: id }, vars: { tint: colourVar(id) } },
    el("span", { class: "dot" }),
    el("span", { class: "text" }, el("span", { class: "name" }, nameOf(id)), el("span", { class: "sub" }, detailsOf(id).join(" · "))),
    el("span", { class: "acts" }, actButtons(id, nameOf(id)).slice(0, 2)),
  );
}
