// The map as it comes from GET /v1/map: decoded, and searched for the point nearest to a place.

const MAGIC = "TTM1";
export const NO_COLOUR = 255;

/** The header and the points of a map; throws an Error for other bytes. */
export function decodeMap(buffer) {
  const bytes = new Uint8Array(buffer);
  if (bytes.length < 8 || String.fromCharCode(...bytes.subarray(0, 4)) !== MAGIC) throw new Error("What the server gave is no map.");
  const start = 8 + new DataView(buffer).getUint32(4, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start)));
  const count = header.num_points;
  if (bytes.length !== start + 5 * count) throw new Error("The map was cut short on its way.");
  const row = (i) => bytes.subarray(start + i * count, start + (i + 1) * count);
  const [xLow, xHigh, yLow, yHigh] = [row(0), row(1), row(2), row(3)];
  const places = new Uint16Array(2 * count);
  for (let i = 0; i < count; i++) {
    places[2 * i] = (xHigh[i] << 8) | xLow[i];
    places[2 * i + 1] = (yHigh[i] << 8) | yLow[i];
  }
  return { header, count, places, colours: row(4).slice(), cells: cellStarts(places, count) };
}

// Points come along a Z-curve, so the points of one of 256 x 256 cells follow each other: where each cell begins is all it
// takes to find what is near a place.
const SPREAD = Uint32Array.from({ length: 256 }, (_, byte) => {
  let bits = 0;
  for (let i = 0; i < 8; i++) bits |= ((byte >> i) & 1) << (2 * i);
  return bits;
});
const cellOf = (column, line) => SPREAD[column] | (SPREAD[line] << 1);

function cellStarts(places, count) {
  const starts = new Uint32Array(65537);
  for (let i = 0; i < count; i++) starts[cellOf(places[2 * i] >> 8, places[2 * i + 1] >> 8) + 1]++;
  for (let cell = 0; cell < 65536; cell++) starts[cell + 1] += starts[cell];
  return starts;
}

/** Calls `visit(point, squared distance)` for each shown point within `reach` of a place, all in the units of the map. */
function visitNear(map, x, y, reach, isShown, visit) {
  const cell = (at) => Math.min(255, Math.max(0, Math.floor(at) >> 8));
  for (let column = cell(x - reach); column <= cell(x + reach); column++) {
    for (let line = cell(y - reach); line <= cell(y + reach); line++) {
      const id = cellOf(column, line);
      for (let point = map.cells[id]; point < map.cells[id + 1]; point++) {
        if (!isShown(map.colours[point])) continue;
        const dx = map.places[2 * point] - x;
        const dy = map.places[2 * point + 1] - y;
        const distance = dx * dx + dy * dy;
        if (distance <= reach * reach) visit(point, distance);
      }
    }
  }
}

/** The shown point nearest to a place, and its `others` nearest neighbours, nearest first; at most `reach` away. */
export function nearestPoints(map, x, y, reach, isShown, others = 0) {
  const found = [];
  visitNear(map, x, y, reach, isShown, (point, distance) => {
    if (found.length <= others || distance < found[found.length - 1][1]) {
      let place = found.length;
      while (place > 0 && found[place - 1][1] > distance) place--;
      found.splice(place, 0, [point, distance]);
      if (found.length > others + 1) found.pop();
    }
  });
  return found.map(([point]) => point);
}

/** The box that holds all but the outermost points at each side: its middle, width and height. */
export function middleOf(map) {
  const outermost = Math.floor(map.count * 0.004);
  const [x, width] = span(0);
  const [y, height] = span(1);
  return { x, y, width, height };

  function span(axis) {
    const sorted = Uint16Array.from({ length: map.count }, (_, point) => map.places[2 * point + axis]).sort();
    const [low, high] = [sorted[outermost] ?? 0, sorted[map.count - 1 - outermost] ?? 0];
    return [(low + high) / 2, Math.max(high - low, map.header.side / 50)];
  }
}
