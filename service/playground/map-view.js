// What part of a map is seen: places on the map, pixels of the page, and the ways between them.

const MAX_ZOOM = 200; // times the scale at which all is seen
const MIN_ZOOM = 0.6;
const MARGIN_PX = 12; // around all
const GLIDE_MS = 160;

/**
 * A view of maps on a canvas. `x` and `y` are the place in its middle, `scale` is pixels of the canvas per unit of the map, `ratio` is
 * pixels of the canvas per pixel of the page. Lengths that are given and returned are pixels of the page. `changed` is called after
 * each change.
 */
export function makeView(canvas, changed) {
  let map = null;
  let moving = 0;
  const view = { x: 0, y: 0, scale: 1, ratio: 1 };
  const now = () => ({ x: view.x, y: view.y, scale: view.scale });

  // All is seen when all but the outermost points are.
  function fitScale() {
    const margins = 2 * MARGIN_PX * view.ratio;
    return Math.min((canvas.width - margins) / map.middle.width, (canvas.height - margins) / map.middle.height);
  }
  const clampedScale = (scale) => Math.min(fitScale() * MAX_ZOOM, Math.max(fitScale() * MIN_ZOOM, scale));

  function look(next) {
    const clamp = (at) => Math.min(map.header.side, Math.max(0, at));
    Object.assign(view, { x: clamp(next.x), y: clamp(next.y), scale: clampedScale(next.scale) });
    changed();
  }

  const toPlace = (left, top) => [
    view.x + (left * view.ratio - canvas.width / 2) / view.scale,
    view.y - (top * view.ratio - canvas.height / 2) / view.scale,
  ];
  const toPixels = (x, y) => [
    ((x - view.x) * view.scale + canvas.width / 2) / view.ratio,
    ((view.y - y) * view.scale + canvas.height / 2) / view.ratio,
  ];
  const whole = () => ({ x: map.middle.x, y: map.middle.y, scale: fitScale() });

  return Object.assign(view, {
    toPlace,
    toPixels,
    pixelsOf: (point) => toPixels(map.places[2 * point], map.places[2 * point + 1]),
    width: () => canvas.width / view.ratio,
    height: () => canvas.height / view.ratio,
    /** How much larger things are than when all is seen. */
    zoom: () => view.scale / fitScale(),
    whole,
    zoomed: (factor) => ({ ...now(), scale: clampedScale(view.scale * factor) }),
    moved: (right, down) => ({ ...now(), x: view.x + (right * view.ratio) / view.scale, y: view.y - (down * view.ratio) / view.scale }),
    look,

    /** Shows a map: the first one as a whole, a later one as the one before. */
    open(next) {
      const isFirst = !map;
      map = next;
      look(isFirst ? whole() : now());
    },

    /** `resize` gives the canvas another size; what is seen stays as large a part of the whole. */
    resized(ratio, resize) {
      const zoom = map ? view.zoom() : 1;
      resize();
      view.ratio = ratio;
      if (map) look({ ...now(), scale: fitScale() * zoom });
    },

    /** Zooms; the place at a pixel stays there. */
    zoomAt(left, top, factor) {
      const [x, y] = toPlace(left, top);
      const scale = clampedScale(view.scale * factor);
      look({ x: x - ((x - view.x) * view.scale) / scale, y: y - ((y - view.y) * view.scale) / scale, scale });
    },

    stop: () => cancelAnimationFrame(moving),

    /** Moves to another view, smoothly where motion is wanted; `arrived` is called at the end. */
    glide(next, arrived) {
      view.stop();
      const [from, began] = [now(), performance.now()];
      const length = matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : GLIDE_MS;
      const step = (time) => {
        const share = length ? Math.min(1, Math.max(0, (time - began) / length)) : 1;
        const eased = share * (2 - share);
        const mix = (name) => from[name] + (next[name] - from[name]) * eased;
        look({ x: mix("x"), y: mix("y"), scale: from.scale * Math.pow(next.scale / from.scale, eased) });
        if (share < 1) moving = requestAnimationFrame(step);
        else arrived();
      };
      step(began);
    },
  });
}
