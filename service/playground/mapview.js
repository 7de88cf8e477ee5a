// The panel Map: the module that draws it is read when the panel is first shown.

import { byId, fill, sentence } from "./dom.js";

let map = null;
let loading = false;
let marked = [];

/** Shows the map; `open(item_id)` is called with the item that was picked, `listed` has the items to mark. */
export async function showMap(open, listed) {
  marked = listed;
  if (map || loading) {
    map?.highlight(marked);
    return;
  }
  loading = true;
  const place = byId("map");
  fill(place, sentence("Reading the map …"));
  try {
    const module = await import("./map.js");
    fill(place);
    map = await module.mountMap(place, { onPick: (item_id) => open(item_id) });
    map.highlight(marked);
  } catch (trouble) {
    fill(place, sentence(told(trouble), { label: "Try again", run: () => showMap(open, marked) }));
  } finally {
    loading = false;
  }
}

function told(trouble) {
  if (trouble.status === 404 || trouble instanceof TypeError) return "This release has no map. The nightly job makes one when it builds the next release.";
  return trouble.message;
}

/** Marks the items of the list. */
export function markMap(listed) {
  marked = listed;
  map?.highlight(marked);
}

export function hideMap() {
  map?.pause?.();
}
