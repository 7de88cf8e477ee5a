// The panel Map: the module that draws it is read when the panel is first shown.

import { byId, fill, sentence } from "./dom.js";
import { person } from "./person.js";

let map = null;
let loading = false;
let marked = [];

/** Shows the map; `open(item_id)` is called with the item that was picked, `listed` has the items to ring. */
export async function showMap(open, listed) {
  marked = listed;
  if (map || loading) {
    highlight();
    return;
  }
  loading = true;
  const place = byId("map");
  fill(place, sentence("Reading the map …"));
  try {
    const module = await import("./map.js");
    fill(place);
    map = module.mountMap(place, { onPick: (item_id) => open(item_id) });
    highlight();
  } catch {
    fill(place, sentence("The part of the page that draws the map cannot be read. The server may be of another version by now: reload the page."));
  } finally {
    loading = false;
  }
}

/** Rings the items of the list, and dots those of the history. */
function highlight() {
  const history = [...new Set(person.events.map((event) => event.item_id).filter(Boolean))];
  map?.highlight({ recommended: marked, history });
}

/** The items of the list have changed. */
export function markMap(listed) {
  marked = listed;
  highlight();
}
