// The panel Server: whether it is healthy, what it serves, and what it does now. It reads again while it is shown.

import { get } from "./api.js";
import { byId, bytes, calm, clockOf, count, dayOf, duration, el, fill, many, sentence, short, svg } from "./dom.js";

const EVERY_MS = 3000;
const KEPT = 40; // points of the small drawings
const series = [];
let timer = 0;
let before = null;

/** Shows the panel, and reads again every few seconds until it is hidden. */
export function showServer(place) {
  hideServer();
  if (!byId("server-health")) {
    fill(place, el("div", { class: "tiles", id: "server-health" }), el("div", { class: "columns even" }, card("Load", "server-load"), card("Releases", "server-releases")), card("Requests", "server-routes"));
  }
  const look = async () => {
    await Promise.all([drawHealth(), drawMetrics(), drawReleases()]);
    byId("server-time").textContent = `Read at ${new Date().toLocaleTimeString("en-GB")}, and again every ${EVERY_MS / 1000} seconds.`;
  };
  look();
  timer = setInterval(() => document.hidden || look(), EVERY_MS);
}

export function hideServer() {
  clearInterval(timer);
}

const card = (title, id) => el("section", { class: "card" }, el("h2", {}, title), el("div", { id }));

function tile(label, value, more, good = null) {
  const mark = good === null ? "" : good ? " good" : " bad";
  return el("div", { class: `tile${mark}` }, el("span", { class: "label" }, label), el("span", { class: "value" }, value), el("span", { class: "more" }, more));
}

async function drawHealth() {
  const place = byId("server-health");
  try {
    const [ready, catalogue] = await Promise.all([get("readyz"), get("v1/catalogue")]);
    const age = ready.heartbeat_age_s;
    fill(
      place,
      tile("State", "Ready", age === null ? "health is told in detail on the admin port" : `the engine moved ${age < 1 ? "within the last second" : `${duration(age)} ago`}`, true),
      tile("Release", catalogue.release.replace(/^release-/, ""), "answers requests now"),
      tile("Catalogue", short(catalogue.items), `items, ${many(catalogue.groups.length, "group")}`),
      tile("Popularity", catalogue.popularity_as_of ? dayOf(catalogue.popularity_as_of) : "–", catalogue.popularity_as_of ? "the last day that the release counted" : "as the bundle has it"),
    );
  } catch (trouble) {
    const down = trouble.code === "unreachable";
    fill(place, tile("State", down ? "Gone" : "Not ready", trouble.message, false));
  }
}

async function drawReleases() {
  const place = byId("server-releases");
  try {
    const told = await get("v1/releases");
    const rows = [...told.releases].reverse().map((release) => {
      const marks = [release.id === told.serving && "serving", release.current && release.id !== told.serving && "named by the pointer", release.id === told.previous && "kept for a rollback", release.id === told.canary && "on trial", told.quarantined[release.id] && "quarantined", release.problem].filter(Boolean);
      return el("li", {}, el("span", { class: "name" }, release.id), el("span", { class: "sub" }, release.items ? `${count(release.items)} items · ${release.bundle}` : ""), el("span", { class: "facts" }, marks.map((mark) => el("span", { class: `fact${mark === "serving" ? " good" : ""}` }, mark))));
    });
    const trial = told.trial && el("p", { class: "hint" }, `${told.trial.release} is on trial with ${told.trial.percent} % of the users: ${many(told.trial.new.requests, "request")}, ${told.trial.new.failed} failed.`);
    fill(place, rows.length ? el("ul", { class: "plain-list" }, rows) : sentence("The store lists no release."), trial);
  } catch (trouble) {
    fill(place, sentence(trouble.message));
  }
}

async function drawMetrics() {
  const [load, routes] = [byId("server-load"), byId("server-routes")];
  try {
    const now = { at: performance.now(), metrics: parse(await get("metrics", {}, { as: "text" })) };
    const rate = before ? (answered(now.metrics) - answered(before.metrics)) / ((now.at - before.at) / 1000) : null;
    const quick = quantile(now.metrics, before?.metrics, 0.5);
    if (before) {
      series.push({ rate, quick });
      if (series.length > KEPT) series.shift();
    }
    before = now;
    const value = (name, labels = {}) => sum(now.metrics, name, labels);
    const [hits, misses] = ["hits", "misses"].map((outcome) => value("twotower_user_cache", { outcome }));
    fill(
      load,
      series.length > 1 ? el("div", { class: "sparks" }, spark("requests a second", series.map((one) => one.rate), (n) => n.toFixed(1)), spark("typical ms of an answer", series.map((one) => one.quick), (n) => n.toFixed(1))) : el("p", { class: "hint" }, "The drawings begin with the next reading."),
      el(
        "dl",
        { class: "features" },
        pair("Being answered", count(value("twotower_requests_in_flight"))),
        pair("Waiting for the engine", count(value("twotower_queue_depth"))),
        pair("Answers that lacked something", count(value("twotower_degraded_total"))),
        pair("Events stored", count(value("twotower_events_total", { outcome: "accepted" }))),
        pair("User states found in memory", hits + misses ? `${Math.round((100 * hits) / (hits + misses))} %` : "–"),
        pair("Memory of the process", bytes(value("process_resident_memory_bytes"))),
        pair("Memory that is left", bytes(value("twotower_memory_available_bytes"))),
        pair("Running since", `${dayOf(1000 * value("process_start_time_seconds"))}, ${clockOf(1000 * value("process_start_time_seconds"))} UTC`),
      ),
    );
    fill(routes, table(now.metrics));
  } catch (trouble) {
    fill(load, sentence(trouble.message));
    fill(routes, sentence(trouble.message));
  }
}

const pair = (name, told) => [el("dt", {}, name), el("dd", {}, told)];

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;

/** Samples of Prometheus' text format, by name. */
function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const told = line.startsWith("#") ? null : LINE.exec(line);
    if (!told) continue;
    const labels = Object.fromEntries([...(told[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((pair) => [pair[1], pair[2]]));
    if (!found.has(told[1])) found.set(told[1], []);
    found.get(told[1]).push({ labels, value: Number(told[3]) });
  }
  return found;
}

const DURATION = "http_server_request_duration_seconds";

function sum(metrics, name, labels = {}) {
  const wanted = Object.entries(labels);
  return (metrics.get(name) ?? []).filter((one) => wanted.every(([label, value]) => one.labels[label] === value)).reduce((total, one) => total + one.value, 0);
}

const OWN = new Set(["/v1/catalogue", "/v1/releases"]);

/** Requests that people and shops sent: those of this panel and of balancers are left out. */
const isAsked = (one) => one.labels.route?.startsWith("/v1/") && !OWN.has(one.labels.route);
const answered = (metrics) => (metrics.get(`${DURATION}_count`) ?? []).filter(isAsked).reduce((total, one) => total + one.value, 0);

/** Milliseconds that a share of the answers since `earlier` did not exceed, by the buckets of the histogram; null without answers. */
function quantile(metrics, earlier, share, keep = isAsked) {
  const bucket = (from) => {
    const totals = new Map();
    for (const one of (from?.get(`${DURATION}_bucket`) ?? []).filter(keep)) {
      const edge = one.labels.le === "+Inf" ? Infinity : Number(one.labels.le);
      totals.set(edge, (totals.get(edge) ?? 0) + one.value);
    }
    return totals;
  };
  const [now, then] = [bucket(metrics), bucket(earlier)];
  const edges = [...now.keys()].sort((a, b) => a - b);
  const counts = edges.map((edge) => now.get(edge) - (then.get(edge) ?? 0));
  const total = counts.at(-1) ?? 0;
  if (!total) return null;
  const at = counts.findIndex((n) => n >= share * total);
  const [low, high] = [at ? edges[at - 1] : 0, Number.isFinite(edges[at]) ? edges[at] : edges[at - 1]];
  const inside = counts[at] - (at ? counts[at - 1] : 0);
  return 1000 * (low + (high - low) * (inside ? (share * total - (at ? counts[at - 1] : 0)) / inside : 1));
}

function table(metrics) {
  const byRoute = new Map();
  for (const one of (metrics.get(`${DURATION}_count`) ?? []).filter(isAsked)) {
    const name = `${one.labels.method} ${one.labels.route.replace(":path", "")}`;
    const row = byRoute.get(name) ?? { name, method: one.labels.method, route: one.labels.route, total: 0, refused: 0, failed: 0 };
    row.total += one.value;
    if (one.labels.status.startsWith("4")) row.refused += one.value;
    if (one.labels.status.startsWith("5")) row.failed += one.value;
    byRoute.set(name, row);
  }
  if (!byRoute.size) return sentence("Nobody has asked anything yet.");
  const rows = [...byRoute.values()].sort((a, b) => b.total - a.total);
  const ms = (row, share) => {
    const found = quantile(metrics, null, share, (one) => one.labels.route === row.route && one.labels.method === row.method);
    return found === null ? "–" : found < 10 ? found.toFixed(1) : Math.round(found);
  };
  const head = el("tr", {}, ["Route", "Answers", "Refused", "Failed", "p50 ms", "p99 ms"].map((name) => el("th", { scope: "col" }, name)));
  return el("div", { class: "scroll", tabIndex: 0, role: "group", "aria-label": "Requests by route" }, el("table", {}, el("thead", {}, head), el("tbody", {}, rows.map((row) => el("tr", {}, [el("th", { scope: "row" }, row.name), ...[count(row.total), count(row.refused), count(row.failed), ms(row, 0.5), ms(row, 0.99)].map((text) => el("td", {}, text))])))));
}

function spark(label, values, told) {
  const known = values.filter((value) => value !== null);
  const most = Math.max(1e-9, ...known);
  const x = (at) => (at / (KEPT - 1)) * 200;
  const points = values.map((value, at) => (value === null ? null : `${x(at).toFixed(1)},${(44 - 40 * (value / most)).toFixed(1)}`)).filter(Boolean);
  const last = known.at(-1);
  return el("figure", { class: "spark" }, svg("svg", { viewBox: "0 0 200 46", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("polyline", { points: points.join(" ") })), el("figcaption", {}, el("strong", {}, last === undefined ? "–" : told(last)), ` ${calm(label)}`));
}
