// The legend of a map: the kinds of its items, each of which can be hidden.

import { calm, count, el, fill } from "./dom.js";
import { OWN_COLOURS, kindColour } from "./palette.js";

/** Fills an element with the legend of maps. `changed` is called when other kinds are shown than before. */
export function makeLegend(element, changed) {
  let hidden = new Set();

  function show(next) {
    hidden = next;
    for (const row of element.querySelectorAll(".kind")) row.setAttribute("aria-pressed", String(!hidden.has(Number(row.dataset.kind))));
    changed();
  }

  function toggle(kind) {
    const next = new Set(hidden);
    if (!next.delete(kind)) next.add(kind);
    show(next);
  }

  function row({ kind, name, size }, kinds) {
    const only = () => show(new Set(kinds.map((other) => other.kind).filter((other) => other !== kind)));
    return el(
      "button",
      {
        type: "button",
        class: "kind",
        data: { kind },
        vars: { tint: kindColour(kind) },
        title: `${name}: ${count(size)} items. Double-click shows only these.`,
        "aria-pressed": String(!hidden.has(kind)),
        on: { click: () => toggle(kind), dblclick: only },
      },
      el("i"),
      el("b", {}, name),
      el("span", {}, count(size)),
    );
  }

  return {
    isShown: (colour) => !hidden.has(Math.min(colour, OWN_COLOURS)),
    fill(header) {
      const kinds = kindsOf(header);
      const all = el("button", { type: "button", "aria-label": "Show all kinds", on: { click: () => show(new Set()) } }, "all");
      const title = el("div", { class: "title" }, (header.colour_column ?? "").replaceAll("_", " "), all);
      element.hidden = !header.colours.length;
      fill(element, title, kinds.map((kind) => row(kind, kinds)));
    },
  };
}

/** The kinds with a colour of their own, and one for the rest if there is any. */
function kindsOf({ colours, num_points }) {
  const kinds = colours.slice(0, OWN_COLOURS).map((colour, kind) => ({ kind, name: calm(colour.name), size: colour.count }));
  const rest = num_points - kinds.reduce((sum, one) => sum + one.size, 0);
  const others = colours.length - kinds.length;
  return rest ? [...kinds, { kind: OWN_COLOURS, name: others > 0 ? `${others} smaller ones` : "none given", size: rest }] : kinds;
}
