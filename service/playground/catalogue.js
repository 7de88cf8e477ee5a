// What the catalogue holds, how its items are named, and the colour of each group.

import { get, post } from "./api.js";
import { calm } from "./dom.js";
import { OWN_COLOURS, kindColour } from "./palette.js";

const known = new Map(); // item_id -> its features, of all items that were shown

/** The catalogue, once it is read. */
export const catalogue = { release: "", items: 0, title: null, group: null, groups: [], details: [], price: null, popularity_as_of: null };

/** Reads what the catalogue holds. */
export async function readCatalogue() {
  const told = await get("v1/catalogue");
  const told_by = (pattern, kind) => told.features.filter((f) => f.kind === kind && f.name !== told.group && f.name !== told.title && pattern.test(f.name));
  Object.assign(catalogue, told, {
    // Features that say what an item is, then who makes it.
    details: [...told_by(/categ|type|class|genre|kind|collection|aisle/i, "categorical").slice(0, 2), ...told_by(/brand|maker|author|artist/i, "categorical").slice(0, 1)].map((f) => f.name),
    price: told_by(/price|cost/i, "numeric")[0]?.name ?? null,
  });
  return catalogue;
}

/** The features that a list shows. */
export function shownFeatures() {
  return [...new Set([catalogue.title, catalogue.group, ...catalogue.details, catalogue.price].filter(Boolean))];
}

/** Keeps the features of an item that an answer had. */
export function remember(item_id, metadata) {
  if (metadata) known.set(item_id, { ...known.get(item_id), ...metadata });
}

/** Reads the features of items that are not known yet, in one request; items that the catalogue lacks are known as such. */
export async function learn(item_ids) {
  const missing = [...new Set(item_ids)].filter((id) => id && !known.has(id)).slice(0, 500);
  if (!missing.length) return;
  const body = { candidate_item_ids: missing, num_results: missing.length, include_metadata: shownFeatures() };
  const told = await post("v1/recommend", body);
  for (const item of told.items) remember(item.item_id, item.metadata);
  for (const id of told.missing_item_ids) known.set(id, { gone: true });
}

export const features = (item_id) => known.get(item_id) ?? null;

/** The name of an item for people. */
export function nameOf(item_id) {
  const title = known.get(item_id)?.[catalogue.title];
  return title ? calm(title) : `Item ${item_id}`;
}

export const groupOf = (item_id) => known.get(item_id)?.[catalogue.group] ?? null;

/** What stands below a name: group, kind, maker and price, as far as they are known and say something new. */
export function detailsOf(item_id) {
  const told = known.get(item_id);
  if (!told) return [];
  if (told.gone) return ["not in this catalogue, so the model ignores it"];
  const name = nameOf(item_id).toLowerCase();
  const words = [catalogue.group, ...catalogue.details].map((feature) => calm(told[feature]));
  const fresh = words.filter((text, at) => text && words.indexOf(text) === at && !name.startsWith(text.toLowerCase()));
  const price = catalogue.price === null ? null : told[catalogue.price];
  return typeof price === "number" && price >= 0.005 ? [...fresh, price.toFixed(2)] : fresh;
}

/** The colour of a group, as CSS; small groups share one with items without a group. */
export function groupColour(group) {
  const at = catalogue.groups.findIndex((one) => one.name === group);
  return kindColour(at >= 0 ? at : OWN_COLOURS);
}

export const colourVar = (item_id) => groupColour(groupOf(item_id));
