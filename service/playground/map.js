// The map of the catalogue: mountMap(element, {onPick}) draws it, and returns {highlight, reload, destroy, ready}. `ready` is a
// promise of the map's header; it fails when the server has no map.
//
//   const map = mountMap(element, { onPick: (item_id, title) => ... });
//   map.highlight(["995242", ...])                       rings these items
//   map.highlight({ recommended: [...], history: [...] })  rings the first, and dots the others
//
// Drag, wheel and pinch move and zoom; so do arrow keys, + and -, and 0 shows all. Enter picks the item in the middle.

import { NO_COLOUR, decodeMap, middleOf, nearestPoints } from "./map-data.js";
import { makePainter, makePen } from "./map-draw.js";
import { NAMED_COLOURS, STYLE, nameRegions, paletteOf, placeNames, pretty, readTheme } from "./map-look.js";

const MAX_ZOOM = 200;
const HOVER_PX = 12;
const TITLES_AT_ONCE = 48; // those nearest to the pointer, so that the next ones are there already
const ASKED_AT_ONCE = 500; // the most that the server takes

/** fetch with the API key that the playground keeps for its tab. */
function askWithKey(path, init = {}) {
  const key = sessionStorage.getItem("twotower.key");
  return fetch(path, { ...init, headers: { ...init.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) } });
}

/** The map as a server gives it. */
export function fromServer(ask = askWithKey) {
  async function answer(path, init) {
    const response = await ask(path, init);
    if (response.ok) return response;
    const told = await response.json().catch(() => null);
    throw Object.assign(new Error(told?.error?.message ?? `the server answered ${response.status}`), { status: response.status });
  }
  return {
    load: async () => (await answer("v1/map")).arrayBuffer(),
    lookUp: async (wanted) =>
      (await answer("v1/map/points", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(wanted) })).json(),
  };
}

/** Draws a map into an element. `source` has {load, lookUp}, by default the server that the page is from. */
export function mountMap(element, { onPick = () => {}, ask, source = fromServer(ask), webgl = true } = {}) {
  const root = element.shadowRoot ?? element.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(STYLE);
  root.adoptedStyleSheets = [sheet];
  const make = (name, kind = "", text = "") => Object.assign(document.createElement(name), { className: kind, textContent: text });

  const points = make("canvas");
  const ink = make("canvas", "ink");
  const legend = make("div", "legend panel");
  const zoom = make("div", "zoom panel");
  const tip = make("div", "tip panel");
  const notice = make("div", "notice");
  const said = make("p", "unseen");
  ink.tabIndex = 0;
  ink.setAttribute("role", "application");
  ink.setAttribute("aria-label", "Map of the catalogue. Arrow keys move it, plus and minus zoom, 0 shows all, Enter picks the item in the middle.");
  legend.setAttribute("role", "group");
  legend.setAttribute("aria-label", "Kinds of items on the map");
  said.setAttribute("aria-live", "polite");
  root.replaceChildren(points, ink, legend, zoom, tip, notice, said);
  const painter = makePainter(points, webgl);
  const pen = makePen(ink);

  let map = null;
  let theme = readTheme(element);
  let palette = null;
  let view = { x: 0, y: 0, scale: 1 };
  let ratio = 1;
  let hidden = new Set();
  let hovered = null; // a point
  let byKeys = false; // the middle of the map is pointed at, not the pointer
  let rings = { recommended: [], history: [] }; // points
  let wanted = { recommended: [], history: [] }; // item ids
  let titles = new Map(); // of points
  let frame = 0;
  let moving = 0;
  const isShown = (colour) => !hidden.has(Math.min(colour, NAMED_COLOURS));

  // What is seen.

  // Pixels per unit when all is seen: all but the outermost hundredth of the points.
  const fitScale = () => Math.min((points.width - 24 * ratio) / map.middle.width, (points.height - 24 * ratio) / map.middle.height);
  const toPixels = (x, y) => [((x - view.x) * view.scale + points.width / 2) / ratio, ((view.y - y) * view.scale + points.height / 2) / ratio];
  const pixelsOf = (point) => toPixels(map.places[2 * point], map.places[2 * point + 1]);
  const toPlace = (left, top) => [view.x + (left * ratio - points.width / 2) / view.scale, view.y - (top * ratio - points.height / 2) / view.scale];

  function pointSize() {
    const least = Math.min(7, Math.max(1.7, (0.5 * Math.min(points.width, points.height)) / ratio / Math.sqrt(map.count)));
    return Math.min(14, least * Math.pow(view.scale / fitScale(), 0.42)) * ratio;
  }

  function redraw() {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      if (map && points.width) draw();
    });
  }

  function draw() {
    painter.paint(view, pointSize(), palette);
    const [width, height] = [ink.width / ratio, ink.height / ratio];
    pen.begin(ratio, theme);
    pen.names(placeNames(map.names.filter(({ colour }) => isShown(colour)), toPixels, width, height));
    for (const point of rings.history) pen.dot(...pixelsOf(point));
    for (const point of rings.recommended) pen.ring(...pixelsOf(point), 6.5, theme.ink, 2.2);
    if (hovered !== null) pen.ring(...pixelsOf(hovered), 8, theme.accent, 3);
    if (byKeys) pen.cross(width / 2, height / 2);
    placeTip();
  }

  // Moving and zooming.

  function look(next) {
    const scale = Math.min(fitScale() * MAX_ZOOM, Math.max(fitScale() * 0.6, next.scale));
    const clamp = (at) => Math.min(map.header.side, Math.max(0, at));
    view = { x: clamp(next.x), y: clamp(next.y), scale };
    redraw();
  }

  function zoomAt(left, top, factor) {
    const [x, y] = toPlace(left, top);
    const scale = Math.min(fitScale() * MAX_ZOOM, Math.max(fitScale() * 0.6, view.scale * factor));
    look({ x: x - ((x - view.x) * view.scale) / scale, y: y - ((y - view.y) * view.scale) / scale, scale });
  }

  function glide(next, milliseconds = 160) {
    cancelAnimationFrame(moving);
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return look(next);
    const from = { ...view };
    const began = performance.now();
    const step = (now) => {
      const share = Math.min(1, Math.max(0, (now - began) / milliseconds));
      const eased = share * (2 - share);
      const mix = (name) => from[name] + (next[name] - from[name]) * eased;
      look({ x: mix("x"), y: mix("y"), scale: from.scale * Math.pow(next.scale / from.scale, eased) });
      if (share < 1) moving = requestAnimationFrame(step);
      else if (byKeys) pointAtMiddle();
    };
    moving = requestAnimationFrame(step);
  }

  const whole = () => ({ x: map.middle.x, y: map.middle.y, scale: fitScale() });
  const zoomed = (factor) => ({ ...view, scale: Math.min(fitScale() * MAX_ZOOM, Math.max(fitScale() * 0.6, view.scale * factor)) });

  // Pointing and picking.

  function pointAt(left, top, reach = HOVER_PX) {
    const [x, y] = toPlace(left, top);
    const far = ((reach + pointSize() / ratio / 2) * ratio) / view.scale;
    const near = nearestPoints(map, x, y, far, isShown, TITLES_AT_ONCE);
    hover(near.length ? near[0] : null, near);
  }

  const pointAtMiddle = () => pointAt(ink.width / ratio / 2, ink.height / ratio / 2, 60);

  function hover(point, near = []) {
    ink.classList.toggle("on", point !== null && !byKeys);
    if (point !== hovered) {
      hovered = point;
      redraw();
    }
    if (point !== null && !titles.has(point)) askTitles(near);
    showTip();
  }

  let waiting = 0;
  function askTitles(near) {
    clearTimeout(waiting);
    const asked = near.filter((point) => !titles.has(point));
    waiting = setTimeout(() => lookUp({ points: asked }).catch(() => {}), 25);
  }

  async function lookUp(asked) {
    const now = map;
    const answer = await source.lookUp(asked);
    if (map !== now) return [];
    if (answer.release !== map.header.release) {
      start(true);
      return [];
    }
    for (const found of answer.points) titles.set(found.point, found);
    for (const point of asked.points ?? []) if (!titles.has(point)) titles.set(point, null); // no longer sold
    showTip();
    return answer.points;
  }

  function showTip() {
    const told = hovered === null ? null : titles.get(hovered);
    tip.hidden = !told;
    if (!told) return;
    const colour = map.colours[hovered];
    const swatch = make("i");
    swatch.style.background = theme.colourOf(colour);
    const about = make("small");
    const kind = colour === NO_COLOUR ? "" : `${pretty(map.header.colours[colour].name)} · `;
    about.append(swatch, `${kind}${told.item_id}`);
    const title = told.title === null ? told.item_id : pretty(told.title);
    tip.replaceChildren(make("strong", "", title), about);
    if (byKeys) said.textContent = `${title}, ${kind}${told.item_id}`;
    placeTip();
  }

  function placeTip() {
    if (tip.hidden || hovered === null) return;
    const [x, y] = pixelsOf(hovered);
    const [width, height] = [tip.offsetWidth, tip.offsetHeight];
    const left = Math.min(ink.width / ratio - width - 8, Math.max(8, x - width / 2));
    const top = y - height - 16 < 8 ? y + 16 : y - height - 16;
    tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
  }

  async function pick(point) {
    if (point === null) return;
    if (!titles.has(point)) await lookUp({ points: [point] }).catch(() => {});
    const told = titles.get(point);
    if (told) onPick(told.item_id, told.title ?? told.item_id);
  }

  // The pointer: one drags, two pinch, none hovers.

  const held = new Map();
  let dragged = 0;
  const at = (event) => {
    const box = ink.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  ink.addEventListener("pointerdown", (event) => {
    if (!map) return;
    cancelAnimationFrame(moving);
    ink.setPointerCapture(event.pointerId);
    held.set(event.pointerId, at(event));
    if (held.size === 1) dragged = 0;
    byKeys = false;
  });

  ink.addEventListener("pointermove", (event) => {
    if (!map) return;
    const now = at(event);
    const before = held.get(event.pointerId);
    if (!before) return pointAt(...now);
    held.set(event.pointerId, now);
    if (held.size === 1) {
      dragged += Math.hypot(now[0] - before[0], now[1] - before[1]);
      if (dragged > 4) {
        ink.classList.add("held");
        look({ ...view, x: view.x - ((now[0] - before[0]) * ratio) / view.scale, y: view.y + ((now[1] - before[1]) * ratio) / view.scale });
      }
    } else if (held.size === 2) {
      dragged = Infinity;
      const [other] = [...held].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const apart = (place) => Math.max(1, Math.hypot(place[0] - other[0], place[1] - other[1]));
      const middle = [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2];
      view.x -= (((now[0] - before[0]) / 2) * ratio) / view.scale;
      view.y += (((now[1] - before[1]) / 2) * ratio) / view.scale;
      zoomAt(...middle, apart(now) / apart(before));
    }
  });

  function release(event) {
    if (!held.delete(event.pointerId) || !map) return;
    ink.classList.remove("held");
    if (event.type === "pointerup" && dragged <= 4 && held.size === 0) {
      pointAt(...at(event), event.pointerType === "touch" ? 22 : HOVER_PX);
      pick(hovered);
    }
  }
  ink.addEventListener("pointerup", release);
  ink.addEventListener("pointercancel", release);
  ink.addEventListener("pointerleave", () => map && !byKeys && hover(null));
  ink.addEventListener("dblclick", (event) => {
    const [x, y] = map ? toPlace(...at(event)) : [0, 0];
    if (map) glide({ ...zoomed(2), x: (view.x + x) / 2, y: (view.y + y) / 2 });
  });
  ink.addEventListener(
    "wheel",
    (event) => {
      if (!map) return;
      event.preventDefault();
      cancelAnimationFrame(moving);
      const lines = event.deltaMode === 1 ? 18 : 1;
      zoomAt(...at(event), Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0018)));
      pointAt(...at(event));
    },
    { passive: false },
  );

  const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  ink.addEventListener("keydown", (event) => {
    if (!map || event.altKey || event.ctrlKey || event.metaKey) return;
    const step = ((event.shiftKey ? 0.5 : 0.12) * points.width) / view.scale;
    if (KEYS[event.key]) glide({ ...view, x: view.x + KEYS[event.key][0] * step, y: view.y + KEYS[event.key][1] * step });
    else if (event.key === "+" || event.key === "=") glide(zoomed(1.6));
    else if (event.key === "-") glide(zoomed(1 / 1.6));
    else if (event.key === "0") glide(whole());
    else if (event.key === "Enter") pick(hovered);
    else if (event.key === "Escape") hover(null);
    else return;
    byKeys = event.key !== "Escape";
    event.preventDefault();
    redraw();
  });
  ink.addEventListener("blur", () => {
    byKeys = false;
    redraw();
  });

  for (const [text, name, next] of [["+", "Zoom in", () => zoomed(2)], ["−", "Zoom out", () => zoomed(0.5)], ["⤢", "Show all", whole]]) {
    const button = make("button", "", text);
    button.type = "button";
    button.setAttribute("aria-label", name);
    button.addEventListener("click", () => map && glide(next()));
    zoom.append(button);
  }

  // The legend.

  function fillLegend() {
    const { colours, colour_column: column, num_points: count } = map.header;
    legend.hidden = !colours.length;
    const named = colours.slice(0, NAMED_COLOURS).map((colour) => ({ name: pretty(colour.name), count: colour.count }));
    const rest = count - named.reduce((sum, colour) => sum + colour.count, 0);
    const others = colours.length - named.length;
    if (rest) named[NAMED_COLOURS] = { name: others > 0 ? `${others} smaller ones` : "none given", count: rest };
    const title = make("div", "title", column ? column.replaceAll("_", " ") : "");
    const all = make("button", "", "all");
    all.type = "button";
    all.setAttribute("aria-label", "Show all kinds");
    all.addEventListener("click", () => show(new Set()));
    title.append(all);
    const rows = Object.entries(named).map(([kind, { name, count: size }]) => legendRow(Number(kind), name, size, Object.keys(named).map(Number)));
    legend.replaceChildren(title, ...rows);
  }

  function legendRow(kind, name, size, kinds) {
    const row = make("button", "kind");
    row.type = "button";
    row.dataset.kind = kind;
    row.title = `${name}: ${size.toLocaleString()} items. Double-click shows only these.`;
    const swatch = make("i");
    swatch.style.background = theme.colourOf(kind);
    row.append(swatch, make("b", "", name), make("span", "", size.toLocaleString()));
    row.setAttribute("aria-pressed", String(!hidden.has(kind)));
    row.addEventListener("click", () => {
      const next = new Set(hidden);
      if (!next.delete(kind)) next.add(kind);
      show(next);
    });
    row.addEventListener("dblclick", () => show(new Set(kinds.filter((other) => other !== kind))));
    return row;
  }

  function show(next) {
    hidden = next;
    palette = paletteOf(theme, isShown);
    for (const row of legend.querySelectorAll(".kind")) row.setAttribute("aria-pressed", String(!hidden.has(Number(row.dataset.kind))));
    if (hovered !== null && !isShown(map.colours[hovered])) hover(null);
    redraw();
  }

  // Rings around items.

  async function highlight(items) {
    wanted = Array.isArray(items) ? { recommended: items, history: [] } : { recommended: [], history: [], ...items };
    if (!map) return;
    const asked = wanted;
    const ids = [...new Set([...asked.recommended, ...asked.history])].slice(0, ASKED_AT_ONCE);
    const found = ids.length ? await lookUp({ item_ids: ids }).catch(() => []) : [];
    if (asked !== wanted) return;
    const places = new Map(found.map(({ item_id, point }) => [item_id, point]));
    const pointsOf = (list) => list.map((id) => places.get(id)).filter((point) => point !== undefined);
    rings = { recommended: pointsOf(asked.recommended), history: pointsOf(asked.history) };
    redraw();
  }

  // Size, theme, and the beginning.

  function measure() {
    const width = element.clientWidth;
    const height = element.clientHeight;
    const nextRatio = Math.min(2, devicePixelRatio || 1);
    if (!width || !height) return;
    const before = map && points.width ? view.scale / fitScale() : 1;
    ratio = nextRatio;
    for (const canvas of [points, ink]) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    if (map) look({ ...view, scale: fitScale() * before });
    else if (!loading) start();
  }

  function retheme() {
    theme = readTheme(element);
    palette = paletteOf(theme, isShown);
    if (map) fillLegend();
    showTip();
    redraw();
  }

  let loading = false;
  let ready;
  let failed;
  const isReady = new Promise((resolve, reject) => ([ready, failed] = [resolve, reject]));
  isReady.catch(() => {}); // the element says it, whether somebody waits or not

  async function start(again = false) {
    loading = true;
    if (!again) tell("Loading the map…");
    try {
      const next = decodeMap(await source.load());
      next.names = nameRegions(next, pen.widthOf);
      next.middle = middleOf(next);
      painter.load(next);
      const first = !map;
      [map, titles, hovered, rings] = [next, new Map(), null, { recommended: [], history: [] }];
      if (first) view = whole();
      notice.hidden = true;
      zoom.hidden = false;
      retheme();
      await highlight(wanted);
      ready(map.header);
    } catch (error) {
      if (!map) tell(sentence(error), true);
      failed(error);
    } finally {
      loading = false;
    }
  }

  function sentence(error) {
    const text = error instanceof TypeError ? "The server could not be reached." : error.message;
    return `There is no map to show: ${text}`;
  }

  function tell(text, mayRetry = false) {
    notice.replaceChildren(make("p", "", text));
    notice.hidden = false;
    legend.hidden = zoom.hidden = tip.hidden = true;
    if (!mayRetry) return;
    const button = make("button", "", "Try again");
    button.type = "button";
    button.addEventListener("click", () => start());
    notice.append(button);
  }

  const sizes = new ResizeObserver(measure);
  const looks = new MutationObserver(retheme);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  tell("Loading the map…");
  sizes.observe(element);
  looks.observe(document.documentElement, { attributes: true });
  scheme.addEventListener("change", retheme);

  return {
    highlight,
    reload: () => start(true),
    ready: isReady,
    /** How long a redraw takes in milliseconds, drawing included; for measuring. */
    timeRedraw: () => {
      const began = performance.now();
      draw();
      painter.finish();
      return performance.now() - began;
    },
    kind: painter.kind,
    /** Where an item's point is in the element, in pixels; for tests. */
    pixelsOf,
    look: (next) => look({ ...view, ...next }),
    destroy: () => {
      sizes.disconnect();
      looks.disconnect();
      scheme.removeEventListener("change", retheme);
      cancelAnimationFrame(frame);
      cancelAnimationFrame(moving);
      root.replaceChildren();
    },
  };
}
