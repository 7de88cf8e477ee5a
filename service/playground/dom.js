// Nodes, icons and texts. Text goes into nodes as text, so nothing that a catalogue holds can become markup.

const SVG = "http://www.w3.org/2000/svg";

const PATHS = {
  view: "M2 12s3.5-6.5 10-6.5S22 12 22 12s-3.5 6.5-10 6.5S2 12 2 12Zm10 3a3 3 0 1 0 0-6 3 3 0 0 0 0 6Z",
  purchase: "M6 7h13l-1.5 9H8L6 3H3m6 17.5a.5.5 0 1 0 0-1 .5.5 0 0 0 0 1Zm8 0a.5.5 0 1 0 0-1 .5.5 0 0 0 0 1Z",
  search: "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14Zm5-2 5 5",
  other: "M12 4v16M4 12h16",
  grip: "M9 6h.01M15 6h.01M9 12h.01M15 12h.01M9 18h.01M15 18h.01",
  up: "M12 19V5m-6 6 6-6 6 6",
  down: "M12 5v14m6-6-6 6-6-6",
  remove: "M6 6l12 12M18 6 6 18",
  key: "M15 4a5 5 0 1 1-3.6 8.5L5 19v2H3v-3l6.6-6.6A5 5 0 0 1 15 4Zm1.5 3.5h.01",
  sun: "M12 8a4 4 0 1 1 0 8 4 4 0 0 1 0-8ZM12 2v2M12 20v2M4.9 4.9l1.4 1.4M17.7 17.7l1.4 1.4M2 12h2M20 12h2M4.9 19.1l1.4-1.4M17.7 6.3l1.4-1.4",
  moon: "M20 14.5A8 8 0 0 1 9.5 4a8 8 0 1 0 10.5 10.5Z",
  undo: "M9 14 4 9l5-5M4 9h10a6 6 0 0 1 0 12h-3",
  save: "M5 4h11l3 3v13H5zM8 4v5h7V4M8 20v-6h8v6",
};

/** An element. `props` are properties (`class`, `on`, `data` and `aria-...` have their own meaning); null children are left out. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  setProps(node, props);
  node.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An element of a drawing. */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...children.flat(9).filter((child) => child !== null && child !== undefined));
  return node;
}

function setProps(node, props) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined) continue;
    if (name === "class") node.className = value;
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name === "vars") for (const [key, one] of Object.entries(value)) node.style.setProperty(`--${key}`, one);
    else if (name.includes("-") || name === "role" || name === "for") node.setAttribute(name, value);
    else node[name] = value;
  }
}

/** A line drawing that says nothing to a screen reader: the text beside it, or the button's label, does. */
export function icon(name) {
  const path = svg("path", { d: PATHS[name] ?? PATHS.other });
  return svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" }, path);
}

export function iconButton(name, label, onClick, more = {}) {
  return el("button", { type: "button", class: "icon-button", title: label, "aria-label": label, on: { click: onClick }, ...more }, icon(name));
}

export const byId = (id) => document.getElementById(id);

/** Replaces all children of a node. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
}

/** Tells a screen reader, and nobody else. */
export function say(text) {
  byId("said").textContent = text;
}

/** A sentence in place of a panel's content, with an optional button. */
export function sentence(text, action = null) {
  return el("div", { class: "sentence" }, el("p", {}, text), action && el("button", { type: "button", class: "button", on: { click: action.run } }, action.label));
}

const plain = new Intl.NumberFormat("en");
const day = new Intl.DateTimeFormat("en", { weekday: "short", day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", timeZone: "UTC" });

export const count = (n) => plain.format(n);
export const many = (n, one, several = `${one}s`) => `${count(n)} ${n === 1 ? one : several}`;
export const dayOf = (ms) => day.format(ms);
export const clockOf = (ms) => clock.format(ms);

/** A number with three significant digits and k, M, B or T: 12.3M. Larger ones are powers of ten. */
export function short(n) {
  if (n === null || n === undefined || !Number.isFinite(n)) return "–";
  const size = Math.abs(n);
  if (size >= 1e15) return power(n);
  for (const [unit, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= unit) return `${trim(n / unit)}${letter}`;
  }
  return trim(n);
}

/** A number as a power of ten: 3.2×10¹⁸. */
export function power(n) {
  const exponent = Math.floor(Math.log10(n));
  const lead = n / 10 ** exponent;
  const raised = [...String(exponent)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"["0123456789".indexOf(digit)] ?? "⁻").join("");
  return Math.abs(lead - 1) < 0.005 ? `10${raised}` : `${trim(lead)}×10${raised}`;
}

const trim = (n) => String(Number(n.toPrecision(3)));

export function bytes(n) {
  if (n === null || n === undefined || !Number.isFinite(n)) return "–";
  for (const [unit, name] of [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) if (n >= unit) return `${trim(n / unit)} ${name}`;
  return `${trim(n)} B`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  for (const [unit, one] of [[31557600, "year"], [86400, "day"], [3600, "hour"], [60, "minute"]]) {
    if (seconds >= unit) {
      const n = trim(seconds / unit);
      return `${Number(n) >= 1000 ? count(Number(n)) : n} ${one}${n === "1" ? "" : "s"}`;
    }
  }
  return `${trim(seconds)} s`;
}

/** Shouted words in small letters: "FLUID MILK 1 GA" is "Fluid milk 1 GA". A text that is not all capitals is left alone. */
export function calm(text) {
  const whole = String(text ?? "").replace(/\s+/g, " ").trim();
  if (!/[A-Z]/.test(whole) || whole !== whole.toUpperCase()) return whole;
  // Abbreviations stay as they are: units after a number, and two or three letters without a vowel.
  const small = whole.toLowerCase().replace(/(\d *(oz|ga|in|ea|l|g)\b)|(\b[b-df-hj-np-tv-xz]{2,3}\b)/g, (found) => found.toUpperCase());
  return small.replace(/[a-z]/, (letter, at) => (at < 2 ? letter.toUpperCase() : letter));
}

export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** Runs `work` once after calls have ceased for `ms`; `.cancel()` drops a waiting call. */
export function debounced(work, ms) {
  let timer = 0;
  const call = (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), ms);
  };
  call.cancel = () => clearTimeout(timer);
  return call;
}
