// How the map looks: its style, its colours on a light and a dark page, and the words on it.

import { calm, el } from "./dom.js";
import { NO_COLOUR, nearestPoints } from "./map-data.js";
import { OWN_COLOURS, kindColour } from "./palette.js";

const LARGE_REGIONS = 16; // named in larger letters
const COVER = 200; // of 255, so that points below others are seen through them

export const STYLE = `
:host { display: block; position: relative; min-height: 320px; color: var(--ink, CanvasText); background: var(--card, var(--paper, Canvas));
  overflow: hidden; font: 14px/1.4 system-ui, "Segoe UI", Roboto, sans-serif; contain: strict; }
* { box-sizing: border-box; }
canvas { position: absolute; inset: 0; width: 100%; height: 100%; }
.ink { touch-action: none; cursor: grab; outline: none; }
.ink.held { cursor: grabbing; }
.ink.on { cursor: pointer; }
.ink:focus-visible { outline: 3px solid var(--accent, var(--first, Highlight)); outline-offset: -3px; }
button { font: inherit; color: inherit; background: none; border: 0; cursor: pointer; text-align: left; }
button:focus-visible { outline: 2px solid var(--accent, var(--first, Highlight)); outline-offset: -2px; }
.panel { position: absolute; background: color-mix(in srgb, var(--card, var(--paper, Canvas)) 88%, transparent); backdrop-filter: blur(6px);
  border: 1px solid var(--line, var(--grid, GrayText)); border-radius: 8px; }
.legend { top: 10px; right: 10px; width: 196px; max-height: calc(100% - 20px); overflow-y: auto; padding: 6px 4px; font-size: 13px; }
.legend .title { display: flex; justify-content: space-between; align-items: baseline; padding: 2px 8px 4px; color: var(--soft, var(--faint, GrayText)); font-size: 12px; }
.legend .title button { color: var(--accent, var(--first, LinkText)); padding: 2px 4px; border-radius: 4px; }
.kind { display: flex; width: 100%; gap: 8px; align-items: center; padding: 3px 8px; border-radius: 5px; min-height: 26px; }
.kind:hover { background: color-mix(in srgb, currentColor 8%, transparent); }
.kind i { flex: none; width: 11px; height: 11px; border-radius: 50%; background: var(--tint); }
.kind b { flex: 1; font-weight: 400; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.kind span { color: var(--soft, var(--faint, GrayText)); font-variant-numeric: tabular-nums; font-size: 12px; }
.kind[aria-pressed="false"] { opacity: .42; }
.kind[aria-pressed="false"] b { text-decoration: line-through; }
.zoom { left: 10px; bottom: 10px; display: flex; flex-direction: column; }
.zoom button { width: 38px; height: 38px; text-align: center; font-size: 19px; line-height: 1; border-radius: 7px; }
.zoom button:hover { background: color-mix(in srgb, currentColor 8%, transparent); }
.tip { left: 0; top: 0; max-width: min(300px, 70%); padding: 7px 10px; pointer-events: none; box-shadow: 0 4px 16px rgb(0 0 0 / .16);
  overflow-wrap: anywhere; z-index: 2; }
.tip strong { display: block; font-weight: 600; line-height: 1.25; }
.tip small { color: var(--soft, var(--faint, GrayText)); font-size: 12px; }
.tip i { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 6px; background: var(--tint); }
.notice { position: absolute; inset: 0; display: grid; place-content: center; justify-items: center; gap: 10px; padding: 24px; text-align: center;
  color: var(--soft, var(--faint, GrayText)); }
.notice button { border: 1px solid currentColor; border-radius: 6px; padding: 6px 14px; color: var(--ink, CanvasText); }
.fault { left: 58px; bottom: 10px; max-width: calc(100% - 270px); margin: 0; padding: 7px 10px; font-size: 13px; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
[hidden] { display: none !important; }
@media (max-width: 620px) {
  .legend { top: auto; right: 0; left: 0; bottom: 0; width: auto; max-height: none; display: flex; overflow-x: auto; overflow-y: hidden;
    border-radius: 0; border-width: 1px 0 0; padding: 4px; }
  .legend .title { flex: none; align-items: center; gap: 6px; padding: 0 6px; }
  .kind { flex: none; width: auto; min-height: 36px; }
  .kind span { display: none; }
  .zoom { bottom: 58px; }
  .zoom button { width: 44px; height: 44px; }
  .fault { left: 64px; bottom: 58px; max-width: calc(100% - 74px); }
}
`;

/** The colours of the page that the map stands on. */
export function readTheme(root) {
  const { color, backgroundColor } = getComputedStyle(root.host);
  const probe = el("i");
  root.append(probe);
  const read = (colour) => {
    probe.style.color = colour;
    return getComputedStyle(probe).color;
  };
  const kinds = Array.from({ length: OWN_COLOURS + 1 }, (_, kind) => read(kindColour(kind)));
  const accent = read("var(--accent, var(--first, Highlight))");
  probe.remove();
  return { ink: color, paper: backgroundColor, accent, kinds };
}

/** 256 colours for the painter: red, green, blue and cover of each kind. Kinds that are hidden have no cover. */
export function paletteOf(theme, isShown) {
  const context = el("canvas").getContext("2d", { willReadFrequently: true });
  const kinds = theme.kinds.map((colour) => {
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return context.getImageData(0, 0, 1, 1).data.subarray(0, 3);
  });
  const palette = new Uint8Array(1024);
  for (let kind = 0; kind < 256; kind++) palette.set([...kinds[Math.min(kind, OWN_COLOURS)], isShown(kind) ? COVER : 0], 4 * kind);
  return palette;
}

/** The names of the regions, each with its width on the screen and the colour that most points around it have. */
export function nameRegions(map, widthOf) {
  return map.header.regions.map(({ name, x, y }, place) => {
    const isLarge = place < LARGE_REGIONS;
    const colours = nearestPoints(map, x, y, 1500, () => true, 24).map((point) => map.colours[point]);
    const most = colours.sort((a, b) => colours.filter((c) => c === b).length - colours.filter((c) => c === a).length);
    return { name: calm(name), x, y, isLarge, width: widthOf(calm(name), isLarge), colour: most[0] ?? NO_COLOUR };
  });
}

/** The names to write into a view: the largest region first, and none that would cover another one. */
export function placeNames(names, toPixels, width, height) {
  const placed = [];
  for (const { name, x: mapX, y: mapY, width: wide, isLarge } of names) {
    const [x, y] = toPixels(mapX, mapY);
    const [half, high] = [wide / 2 + 8, 11];
    if (x < -half || y < -high || x > width + half || y > height + high) continue;
    if (placed.some((other) => Math.abs(other.x - x) < half + other.half && Math.abs(other.y - y) < 2 * high)) continue;
    placed.push({ name, x, y, half, isLarge });
    if (placed.length === 48) break;
  }
  return placed;
}
