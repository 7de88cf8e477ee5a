// The map of the catalogue: mountMap(element, {source, onPick}) draws it, and returns {highlight}.
//
//   source.load()                            a promise of the bytes of GET /v1/map
//   source.lookUp({points, item_ids})        a promise of the answer of POST /v1/map/points
//   onPick(item_id)                          is called with the item that somebody picks
//   highlight({recommended, history})        rings the first items, and dots the others
//
// Drag, wheel and pinch move and zoom; so do arrow keys, + and -, and 0 shows all. Enter picks the item in the middle.

import { calm, el, fill } from "./dom.js";
import { NO_COLOUR, decodeMap, middleOf, nearestPoints } from "./map-data.js";
import { makePainter, makePen } from "./map-draw.js";
import { listen } from "./map-hands.js";
import { makeLegend } from "./map-legend.js";
import { STYLE, nameRegions, paletteOf, placeNames, readTheme } from "./map-look.js";
import { makeView } from "./map-view.js";
import { kindColour } from "./palette.js";

const MIDDLE_PX = 60; // with keys the item nearest to the middle is pointed at, so far away at most
const TITLES_AT_ONCE = 48; // those nearest to the pointer, so that the next ones are there already
const ASK_TITLES_AFTER_MS = 25;
const ASKED_AT_ONCE = 500; // the most that the server takes
const USE = "Map of the catalogue. Arrow keys move it, plus and minus zoom, 0 shows all, Enter picks the item in the middle.";

/** Draws a map into an element. */
export function mountMap(element, { source, onPick = () => {} }) {
  const points = el("canvas");
  const ink = el("canvas", { class: "ink", tabIndex: 0, role: "application", "aria-label": USE });
  const kinds = el("div", { class: "legend panel", role: "group", "aria-label": "Kinds of items on the map" });
  const zoom = el("div", { class: "zoom panel" });
  const tip = el("div", { class: "tip panel", hidden: true });
  const notice = el("div", { class: "notice" });
  const fault = el("p", { class: "fault panel", role: "alert", hidden: true });
  const said = el("p", { class: "unseen", "aria-live": "polite" });
  const root = element.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(STYLE);
  root.adoptedStyleSheets = [sheet];
  fill(root, points, ink, kinds, zoom, tip, notice, fault, said);

  const painter = makePainter(points);
  const pen = makePen(ink);
  const view = makeView(points, redraw);
  const legend = makeLegend(kinds, onKinds);

  let map = null;
  let isLoading = false;
  const followed = new Set(); // releases whose map was asked for because an answer named them
  let theme = readTheme(root);
  let palette = null;
  let hovered = null; // a point
  let byKeys = false; // the middle of the map is pointed at, not the pointer
  let wanted = { recommended: [], history: [] }; // item ids
  let rings = { recommended: [], history: [] }; // points
  let titles = new Map(); // of points

  // What is seen.

  function pointSize() {
    const least = Math.min(7, Math.max(1.7, (0.5 * Math.min(view.width(), view.height())) / Math.sqrt(map.count)));
    return Math.min(14, least * Math.pow(view.zoom(), 0.42));
  }

  let frame = 0;
  function redraw() {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      if (map) draw();
    });
  }

  function draw() {
    const [width, height] = [view.width(), view.height()];
    painter.paint(view, pointSize() * view.ratio, palette);
    pen.begin(view.ratio, theme);
    pen.names(placeNames(map.names.filter(({ colour }) => legend.isShown(colour)), view.toPixels, width, height));
    for (const point of rings.history) pen.dot(...view.pixelsOf(point));
    for (const point of rings.recommended) pen.ring(...view.pixelsOf(point), 6.5, theme.ink, 2.2);
    if (hovered !== null) pen.ring(...view.pixelsOf(hovered), 8, theme.accent, 3);
    if (byKeys) pen.cross(width / 2, height / 2);
    placeTip();
  }

  function onKinds() {
    palette = paletteOf(theme, legend.isShown);
    if (hovered !== null && !legend.isShown(map.colours[hovered])) hover(null);
    redraw();
  }

  function retheme() {
    theme = readTheme(root);
    palette = paletteOf(theme, legend.isShown);
    redraw();
  }

  function measure() {
    const [width, height, ratio] = [element.clientWidth, element.clientHeight, Math.min(2, devicePixelRatio || 1)];
    if (!width || !height) return;
    view.resized(ratio, () => {
      for (const canvas of [points, ink]) Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    });
    if (!map) start();
  }

  // Pointing and picking.

  function pointAt(left, top, reachPx) {
    const [x, y] = view.toPlace(left, top);
    const reach = ((reachPx + pointSize() / 2) * view.ratio) / view.scale;
    const near = nearestPoints(map, x, y, reach, legend.isShown, TITLES_AT_ONCE);
    hover(near.length ? near[0] : null, near);
  }

  const pointAtMiddle = () => pointAt(view.width() / 2, view.height() / 2, MIDDLE_PX);

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
    waiting = setTimeout(() => lookUp({ points: near.filter((point) => !titles.has(point)) }), ASK_TITLES_AFTER_MS);
  }

  async function pick() {
    const point = hovered;
    if (point === null) return;
    if (!titles.has(point)) await lookUp({ points: [point] });
    const told = titles.get(point);
    if (told) onPick(told.item_id);
  }

  function showTip() {
    const told = hovered === null ? null : titles.get(hovered);
    tip.hidden = !told;
    if (!told) return;
    const colour = map.colours[hovered];
    const title = told.title === null ? told.item_id : calm(told.title);
    const about = `${colour === NO_COLOUR ? "" : `${calm(map.header.colours[colour].name)} · `}${told.item_id}`;
    fill(tip, el("strong", {}, title), el("small", { vars: { tint: kindColour(colour) } }, el("i"), about));
    if (byKeys) said.textContent = `${title}, ${about}`;
    placeTip();
  }

  function placeTip() {
    if (tip.hidden || hovered === null) return;
    const [x, y] = view.pixelsOf(hovered);
    const [width, height] = [tip.offsetWidth, tip.offsetHeight];
    const left = Math.min(view.width() - width - 8, Math.max(8, x - width / 2));
    const top = y - height - 16 < 8 ? y + 16 : y - height - 16;
    tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
  }

  // What the server says of points and items.

  /** The items at points, and the points of items; none, with the reason on the map, when that cannot be told. */
  async function lookUp(asked) {
    const now = map;
    try {
      const answer = await source.lookUp(asked);
      if (map !== now) return [];
      if (answer.release !== map.header.release) return follow(answer.release);
      for (const found of answer.points) titles.set(found.point, found);
      for (const point of asked.points ?? []) if (!titles.has(point)) titles.set(point, null); // no longer sold
      fault.hidden = true;
      showTip();
      return answer.points;
    } catch (error) {
      tellFault(error.message);
      return [];
    }
  }

  /** The server is at another release by now: its map is loaded. Servers that disagree would make that endless, so it is done once. */
  function follow(release) {
    if (followed.has(release)) tellFault("The server has this map no longer. Reload the page.");
    else start();
    followed.add(release);
    return [];
  }

  /** Rings around items, and dots on others. */
  async function highlight(items) {
    wanted = items;
    if (!map) return;
    const ids = [...new Set([...items.recommended, ...items.history])].slice(0, ASKED_AT_ONCE);
    const found = ids.length ? await lookUp({ item_ids: ids }) : [];
    if (items !== wanted) return;
    const places = new Map(found.map(({ item_id, point }) => [item_id, point]));
    const pointsOf = (list) => list.map((id) => places.get(id)).filter((point) => point !== undefined);
    rings = { recommended: pointsOf(items.recommended), history: pointsOf(items.history) };
    redraw();
  }

  async function start() {
    if (isLoading) return;
    isLoading = true;
    if (!map) tell("Loading the map…");
    try {
      open(decodeMap(await source.load()));
    } catch (error) {
      if (map) tellFault(error.message);
      else tell(error.message, el("button", { type: "button", on: { click: start } }, "Try again"));
    } finally {
      isLoading = false;
    }
    await highlight(wanted);
  }

  function open(next) {
    next.names = nameRegions(next, pen.widthOf);
    next.middle = middleOf(next);
    painter.load(next);
    [map, titles, hovered, rings] = [next, new Map(), null, { recommended: [], history: [] }];
    legend.fill(map.header);
    notice.hidden = true;
    zoom.hidden = false;
    retheme();
    showTip();
    view.open(map);
  }

  function tell(text, ...more) {
    fill(notice, el("p", {}, text), more);
    notice.hidden = false;
    kinds.hidden = zoom.hidden = true;
  }

  function tellFault(text) {
    fault.textContent = text;
    fault.hidden = false;
  }

  for (const [text, name, next] of [["+", "Zoom in", () => view.zoomed(2)], ["−", "Zoom out", () => view.zoomed(0.5)], ["⤢", "Show all", view.whole]]) {
    zoom.append(el("button", { type: "button", "aria-label": name, on: { click: () => view.glide(next(), () => {}) } }, text));
  }
  listen(ink, view, {
    isOpen: () => map !== null,
    pointAt,
    pointAtMiddle,
    pick,
    leave: () => byKeys || hover(null),
    useKeys(are) {
      byKeys = are;
      redraw();
    },
  });
  tell("Loading the map…");
  new ResizeObserver(measure).observe(element);
  new MutationObserver(retheme).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", retheme);

  return { highlight };
}
