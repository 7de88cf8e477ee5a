// The panel Map: the module that draws it is read when the panel is first shown.

import { get, post } from "./api.js";
import { byId, fill, sentence } from "./dom.js";
import { person } from "./person.js";

// The server names the release that a map is of, so a map that the browser has is asked for again only when it has changed.
const source = { load: () => get("v1/map", {}, { as: "arrayBuffer", cache: "no-cache" }), lookUp: (asked) => post("v1/map/points", asked) };
let map = null;
let isLoading = false;
let marked = [];

/** Shows the map; `open(item_id)` is called with the item that was picked, `listed` has the items to ring. */
export async function showMap(open, listed) {
  marked = listed;
  if (!map && !isLoading) {
    isLoading = true;
    map = await mount(open);
    isLoading = false;
  }
  highlight();
}

async function mount(onPick) {
  const place = byId("map");
  fill(place, sentence("Reading the map …"));
  let module;
  try {
    module = await import("./map.js");
  } catch (error) {
    console.error(error);
    fill(place, sentence("The part of the page that draws the map cannot be read. The server may be of another version by now: reload the page."));
    return null;
  }
  fill(place);
  return module.mountMap(place, { source, onPick });
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
